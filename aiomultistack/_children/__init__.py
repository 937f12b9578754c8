"""The directory that ``aiomultistack run`` puts into the PYTHONPATH of what the program starts; see `_run`."""
