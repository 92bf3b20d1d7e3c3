"""Retention: what of a store goes, and how it is removed so that nothing that stays misses it."""
