"""What the worker does for Segment Editor effects: it keeps images, networks and encoded slices between requests.

An effect loads its image once (`load_image`) and then names it by its id. Where the id is not known any more, because
the worker was started again or other images took the room, the answer is {"unknown_image": id} and nothing else: load
it and ask again.
"""

from .images import load_image
from .marking import detect, mark
from .tracking import track

__all__ = ["detect", "load_image", "mark", "track"]
