"""A store whose durability rests on storage that several machines share.

shelf.py       objects by name, each put once, if it is not there: in folder.py, or objects.py
ahead.py       reading many of them one after another
stream.py      what one owner after another puts there, by term and sequence
replica.py     the files of a store, as changes of them that follow each other
disk.py        the disk of an owner, whose every sync ships what has changed
"""
