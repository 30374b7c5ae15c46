"""HTA's summary of operators, of our trace and of torch.profiler's: the same calls, about the same time.

`hta_operators.py FOLDER`, which holds `ours` and `theirs`, each with a trace.
"""

import os
import sys

from hta.trace_diff import LabeledTrace


def summary(folder):
    trace = LabeledTrace(label=os.path.basename(folder), trace_dir=folder)
    events = trace.t.get_trace(trace.ranks()[0])
    table = trace.get_ops_summary(events[events["stream"].eq(-1)])
    rows = {}
    for row in table.itertuples():
        if row.cat in ("cpu_op", "user_annotation") and not row.name.startswith("PyTorch Profiler"):
            rows[row.cat, row.name] = (int(row.counts), float(row.total_duration))
    return rows


def main():
    ours, theirs = (summary(os.path.join(sys.argv[1], name)) for name in ("ours", "theirs"))
    counts = lambda rows: {key: count for key, (count, _) in rows.items()}
    assert counts(ours) == counts(theirs), set(counts(ours).items()) ^ set(counts(theirs).items())
    assert len(ours) > 20, ours
    own, other = (sum(time for _, time in rows.values()) for rows in (ours, theirs))
    print(f"HTA: {sum(counts(ours).values())} calls of {len(ours)} names in both; {own:.0f} and {other:.0f} us")
    assert own > 0


if __name__ == "__main__":
    main()
