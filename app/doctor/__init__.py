"""``vyx doctor``: everything that a deployment needs, tried once and said in sentences. It changes nothing."""
