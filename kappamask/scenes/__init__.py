"""What was seen where and when: area, dates, catalogues, search, SAFE. Imports `base`."""
