"""The pocket model, a tiny language model of a generated world, and that world's texts and facts.

``examples/train_pocket`` wrote the assets.
"""
