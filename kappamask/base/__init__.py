"""What every room needs: errors, legend, bands, windows, files, retry."""
