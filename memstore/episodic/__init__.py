"""Episodic memories: of a trainer alone, changed in place and rolled back; never served or logged.

memory.py      EpisodicMemory: its steps, and the way back
linked.py      LinkedMemory: the same, which knows what was written after what
room.py        the arrays beside its rows, as they begin, and room made for a step
tree.py        the tree of its sealed rows
"""

from memstore.episodic.linked import LinkedMemory as LinkedMemory
from memstore.episodic.memory import Asked as Asked
from memstore.episodic.memory import EpisodicMemory as EpisodicMemory
from memstore.episodic.memory import Read as Read
