"""The fault bench: a catalogue and file server that misbehave, and what users get of it.

``python docs/tools/reliability.py`` runs it many times and writes docs/reliability.md.
"""
