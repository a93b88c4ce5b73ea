"""One peer's tests of the drift streams; run by benchmarks/drift.py in the peer's environment.

    python drift_peer.py evidently|alibi-detect streams.npz found.npz

Every window of every stream goes with the whole reference to the peer's own function, one feature
at a time or all at once as that takes it. What it tells is kept: p-values, or the index.
"""

import sys

import numpy as np


def evidently(reference, windows):
    """p-values of its KS test and its PSI, of shape (streams, windows, features) each."""
    import pandas
    import pandas.core.dtypes.common as of_pandas

    if not hasattr(of_pandas, "infer_dtype_from_object"):
        of_pandas.infer_dtype_from_object = lambda dtype: dtype.type
    from evidently.legacy.calculations.stattests import ks_stat_test, psi_stat_test
    from evidently.legacy.core import ColumnType

    shape = (windows.shape[0], windows.shape[1], windows.shape[3])
    found = {"ks": np.zeros(shape), "psi": np.zeros(shape)}
    for s in range(shape[0]):
        for f in range(shape[2]):
            before = pandas.Series(reference[s, :, f])
            for w in range(shape[1]):
                now = pandas.Series(windows[s, w, :, f])
                for name, test in (("ks", ks_stat_test), ("psi", psi_stat_test)):
                    told = test(before, now, ColumnType.Numerical, 0.05)
                    found[name][s, w, f] = told.drift_score
    return found


def alibi_detect(reference, windows):
    """p-values of its KS detector, of shape (streams, windows, features)."""
    from alibi_detect.cd import KSDrift

    shape = (windows.shape[0], windows.shape[1], windows.shape[3])
    found = np.zeros(shape)
    for s in range(shape[0]):
        detector = KSDrift(reference[s], p_val=0.05)
        for w in range(shape[1]):
            found[s, w] = detector.predict(windows[s, w])["data"]["p_val"]
    return {"ks": found}


if __name__ == "__main__":
    given = np.load(sys.argv[2])
    peer = {"evidently": evidently, "alibi-detect": alibi_detect}[sys.argv[1]]
    kinds = sorted({name.partition("/")[0] for name in given.files})
    out = {}
    for kind in kinds:
        told = peer(given[f"{kind}/reference"], given[f"{kind}/windows"])
        out |= {f"{kind}/{name}": values for name, values in told.items()}
    np.savez(sys.argv[3], **out)
