"""The backbones: a file each, and what a backbone of your own derives from.

A backbone of your own derives from `Backbone` in your own file; nothing here has to be changed for it.
"""
