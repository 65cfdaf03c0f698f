"""Floor 2: the methods, each a room with the same furniture: config.py, learner.py (site), server.py (server).

A method is added by giving it a room and a line in :data:`consilia.methods.catalogue.METHODS`.
"""
