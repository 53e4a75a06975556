"""Training of the own network. Row 6: may import every lower row.

`chips` reads labelled pixels, `simulate` puts clouds on clear ones, `fit` is the loop.
"""
