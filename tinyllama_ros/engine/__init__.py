"""Token ids in, token ids out: the cache, the generation loop, sampling, backends."""
