"""Rules of parameters and buffers: whether they move, are shared, tied, frozen, equal or registered."""
