"""CACS on Ray: ad creative selection before ranking, from logs to decisions.

The walk of a row, one package a stage; each imports only what stands before it:

    data        logs are read, checked row by row, split by time
    features    rows become integers and floats, by one encoder
    models      selector (two towers) and ranker; losses, metrics beside them
    training    teacher -> soft labels -> student -> serving ranker
    bundle      what leaves training: weights, features, catalogue, manifest
    evaluation  every policy under one harness, with intervals
    registry    versions, champion and challenger
    serving     the decision log becomes the next impressions table
"""

__version__ = "0.1.0"
