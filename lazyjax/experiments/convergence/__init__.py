"""Gradient descent reaches zero training loss: theorems beside what happens."""
