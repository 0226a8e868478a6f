"""Parts of the module's panel; they need Slicer and Qt."""
