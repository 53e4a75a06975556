"""The loop over dates: items or products to masks, composites, pictures. Imports all but doors."""
