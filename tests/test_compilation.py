from distributed_maddpg import compilation


def test_compiled_falls_back_where_no_cache_can_be_written(monkeypatch):
    real = compilation.numba.njit

    def njit(*args, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args)

    monkeypatch.setattr(compilation.numba, "njit", njit)
    assert compilation.compiled(lambda x: x + 1)(1) == 2
