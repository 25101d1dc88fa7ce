"""From public archives, the bundled knowledge base and the user's own rows to checked, disjoint splits.

sources → cleaning → splits, with the BM25 evidence index (evidence) over the training rows. Each of `sources`,
`cleaning` and `splits` has a `run(job)`; everything else is a function that needs no job.
"""
