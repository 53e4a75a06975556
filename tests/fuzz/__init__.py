"""Hostile input, made at random: what is refused, and that nothing else goes wrong."""
