"""DuckDB and pandas, on Parquet and on Kineto JSON."""

import gzip
import json
from pathlib import Path

from spool import LAUNCHED
from truth import INTERVALS, arrows_equal, equal, near, slices_equal

LARGEST_OBJECT = 2**31 - 1


def tables(source):
    folder = source.export("parquet")
    return {path.stem: path for path in folder.iterdir()}


def duckdb_parquet(source):
    """Rows of each kind, their durations, and work joined with its launch."""
    import duckdb

    there = tables(source)
    duckdb_parquet_rows(source, there)
    arrows_equal(source.truth, joined(duckdb, there).values())


def duckdb_parquet_rows(source, there):
    import duckdb

    truth = source.truth
    kinds = {kind for kind, rows in truth.rows.items() if rows}
    equal("tables that lack", kinds - there.keys(), set())
    for kind in sorted(kinds):
        ((rows,),) = duckdb.sql(f"select count(*) from '{there[kind]}'").fetchall()
        equal(f"rows of {kind}", rows, truth.rows[kind])
        if kind in INTERVALS:
            sql = f'select coalesce(sum("end" - start), 0) from \'{there[kind]}\''
            ((ns,),) = duckdb.sql(sql).fetchall()
            near(f"ns in {kind}", int(ns), truth.row_ns[kind], truth.slack[kind])


def joined(duckdb, there):
    """Launch, work and ns by worker. A call inside a call has its number: each counts once."""
    groups = {}
    for kind in LAUNCHED:
        if kind not in there or "api_call" not in there:
            continue
        sql = f"""
            select worker, correlation, "end" - start from '{there[kind]}'
            semi join '{there["api_call"]}' using (worker, correlation)
        """
        for worker, launch, ns in duckdb.sql(sql).fetchall():
            groups.setdefault(worker, []).append((launch, launch, ns))
    return groups


def documented_queries(source):
    """The queries of docs/tables.md, as they stand there but for the limits of their lines."""
    import duckdb

    page = Path(__file__).resolve().parents[2] / "docs" / "tables.md"
    (block,) = [part.split("```")[0] for part in page.read_text().split("```sql\n")[1:]]
    folder = next(iter(tables(source).values())).parent
    block = block.replace("trace.parquet", str(folder)).replace(" limit 20", "")
    kernels, samples = [query for query in block.split(";") if query.strip()]
    truth = source.truth
    rows = duckdb.sql(kernels).fetchall()
    equal("kernels", sum(count for _, count, _ in rows), truth.rows["kernel"])
    sums = [us for _, _, us in rows]
    near("their ns", round(sum(sums) * 1e3), truth.row_ns["kernel"], truth.slack["kernel"])
    equal("in order", sums, sorted(sums, reverse=True))
    rows = duckdb.sql(samples).fetchall()
    stages = {stage for stage, _, _ in rows}
    equal("sampled stages", stages <= {row[0] for row in duckdb.sql(
        f"select distinct stage from '{folder}/workers.parquet'").fetchall()}, True)
    ((ns,),) = duckdb.sql(
        f"select sum(weight_ns) from '{folder}/sample.parquet' where stack is not null"
    ).fetchall()
    near("ns of samples", round(sum(ms for _, _, ms in rows) * 1e6), int(ns), len(rows))


def pandas_parquet(source):
    import pandas

    truth, there = source.truth, tables(source)
    for kind in sorted(kind for kind, rows in truth.rows.items() if rows):
        frame = pandas.read_parquet(there[kind])
        equal(f"rows of {kind}", len(frame), truth.rows[kind])
        if kind in INTERVALS:
            ns = int((frame["end"].astype("int64") - frame["start"].astype("int64")).sum())
            near(f"ns in {kind}", ns, truth.row_ns[kind], truth.slack[kind])


def duckdb_json(source):
    """Slices by category, and arrows joined by their ids."""
    import duckdb

    trace, truth = source.export("kineto-gz"), source.truth
    database = duckdb.connect()
    database.sql(f"""
        create table events as
        select e->>'ph' as ph, e->>'cat' as cat, e->>'id' as id, (e->>'dur')::double as dur,
            e->>'pid' as pid, e->>'tid' as tid, e->>'ts' as ts,
            (e->'args'->>'correlation')::bigint as correlation
        from (
            select unnest(traceEvents) as e
            from read_json('{trace}', columns = {{traceEvents: 'JSON[]'}},
                maximum_object_size = {LARGEST_OBJECT})
        )
    """)
    sql = "select cat, count(*), sum(dur) from events where ph = 'X' group by cat"
    rows = database.sql(sql).fetchall()
    slices_equal(truth, {cat: (count, round(us * 1e3)) for cat, count, us in rows})
    # An arrow's end stands where its slice begins.
    rows = database.sql("""
        select l.pid, l.correlation, w.correlation, round(w.dur * 1000)::bigint
        from events f
        join events s on s.ph = 's' and f.ph = 'f' and s.id = f.id and s.cat = f.cat
        join events w on w.ph = 'X' and w.pid = f.pid and w.tid = f.tid and w.ts = f.ts
            and w.correlation is not null
        join events l on l.ph = 'X' and l.pid = s.pid and l.tid = s.tid and l.ts = s.ts
            and l.correlation is not null
        where f.cat = 'ac2g'
    """).fetchall()
    groups = {}
    for pid, launch, work, ns in rows:
        groups.setdefault(pid, []).append((launch, work, ns))
    arrows_equal(truth, groups.values())


def pandas_json(source):
    import pandas

    with gzip.open(source.export("kineto-gz")) as trace:
        frame = pandas.DataFrame(json.load(trace)["traceEvents"])
    truth = source.truth
    found = {}
    if "dur" in frame:
        sums = frame[frame["ph"] == "X"].groupby("cat")["dur"].agg(["count", "sum"])
        found = {cat: (int(row["count"]), round(row["sum"] * 1e3)) for cat, row in sums.iterrows()}
    slices_equal(truth, found)
    ends = int((frame["ph"] == "f").sum())
    equal("ends of arrows", ends, truth.work())
