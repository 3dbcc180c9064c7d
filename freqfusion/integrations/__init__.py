"""FreqFusion in other people's frameworks; importing this package loads none of them."""
