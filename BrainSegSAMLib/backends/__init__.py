"""The outside model packages (torch, nnU-Net), one file each; nothing else in the library imports them."""
