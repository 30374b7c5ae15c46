"""What readers must find of some spools, and how what they found is compared with it."""

from collections import Counter

from spool import LAUNCHED, Spool

#: Kinds that are drawn with a begin and an end.
INTERVALS = (*LAUNCHED, "api_call", "synchronization", "overhead", "operator", "span")
DRAWN_INSTANTS = ("step", "marker", "memory")

#: What slices of a category are rows of. Spans, steps and what the user
#: marked in libtorch share one.
KIND_OF_CATEGORY = {
    "kernel": "kernel",
    "gpu_memcpy": "memcpy",
    "gpu_memset": "memset",
    "communication": "communication",
    "collective_comm": "communication",
    "cuda_sync": "synchronization",
    "overhead": "overhead",
    "cpu_op": "application",
    "user_annotation": "application",
    "step": "application",
    "marker": "marker",
    "memory": "memory",
    "cuda_runtime": "api_call",
    "cuda_driver": "api_call",
    "acl_runtime": "api_call",
    "api": "api_call",
}
SHARED = {"operator": "application", "span": "application", "step": "application"}


class Truth:
    """Counts and nanoseconds by kind, and arrows by worker, of whole spools.

    `slack` is by how much a sum may be off: instants of CLOCK_REALTIME are put on CLOCK_MONOTONIC
    by a rate, each duration to the nanosecond.
    """

    def __init__(self, spools):
        self.rows = Counter()
        self.slices = Counter()
        self.ns = Counter()
        self.row_ns = Counter()
        self.slack = Counter()
        #: For each worker, (correlation id, ns) of all device work whose launch is there.
        self.arrows = []
        self.windows = 0
        for spool in spools:
            self._add(spool if isinstance(spool, Spool) else Spool(spool))

    def _add(self, spool):
        # A worker without one has a slice that says so.
        self.windows += max(len(spool.windows["monotonic"]), 1)
        for kind in spool.counts():
            if spool.is_row(kind):
                ns, mapped = 0, 0
                if kind in INTERVALS:
                    ns, mapped = spool.total_ns(kind)
                elif kind == "step":
                    ns, mapped = spool.steps_ns()
                self.add(kind, spool.kept(kind), ns, mapped)
        self.arrows.append(sorted(pair for kind in LAUNCHED for pair in spool.arrows(kind)))

    def add(self, kind, count, ns, mapped):
        """Rows of a kind, their ns, and by how much that may be off."""
        self.rows[kind] += count
        self.row_ns[kind] += ns
        drawn = SHARED.get(kind, kind)
        if kind in INTERVALS or kind in DRAWN_INSTANTS:
            self.slices[drawn] += count
            self.ns[drawn] += ns
        for name in {kind, drawn}:
            self.slack[name] += mapped

    def work(self):
        """Rows of work on devices."""
        return sum(self.rows[kind] for kind in LAUNCHED)

    def arrow_count(self):
        return sum(len(arrows) for arrows in self.arrows)

    def launches(self):
        """Launches that put work on a device."""
        return sum(len({launch for launch, _ in arrows}) for arrows in self.arrows)

    def arrow_ns(self):
        return sum(ns for arrows in self.arrows for _, ns in arrows)


def equal(what, found, wanted):
    """Found is what was wanted."""
    if found != wanted:
        raise AssertionError(f"{what}: found {found}, wanted {wanted}")
    print(f"   {what}: {found}")


def near(what, found, wanted, slack):
    """A sum is what was wanted, within what its terms may be off."""
    if abs(found - wanted) > slack:
        raise AssertionError(f"{what}: found {found}, wanted {wanted} within {slack}")
    print(f"   {what}: {found}")


def by_kind(categories):
    """Counts and nanoseconds by kind of {category: (count, ns)}; categories of our own are left
    out."""
    counts, ns = Counter(), Counter()
    for category, (count, total) in categories.items():
        kind = KIND_OF_CATEGORY.get(category)
        if kind:
            counts[kind] += count
            ns[kind] += total
    return counts, ns


def slices_equal(truth, categories, but=()):
    """Slices, by kind and in sum, are the rows of the spools, but kinds that a reader leaves out."""
    counts, ns = by_kind(categories)
    wanted = {kind: n for kind, n in truth.slices.items() if n and kind not in but}
    equal("slices", dict(counts), wanted)
    for kind in counts:
        near(f"ns in {kind}", ns[kind], truth.ns[kind], truth.slack[kind])


def arrows_equal(truth, found):
    """Each worker's arrows lead from a launch to that launch's work.

    `found` has a list for each process that arrows leave: correlation ids at both ends, and the ns
    of the end. Which process is which worker is told by its arrows: no two have the same.
    """
    groups = [sorted((launch, ns) for launch, _, ns in group) for group in found]
    strangers = sum(launch != work for group in found for launch, work, _ in group)
    equal("arrows between strangers", strangers, 0)
    wanted = [arrows for arrows in truth.arrows if arrows]
    groups.sort()
    wanted.sort()
    equal("arrows", [len(group) for group in groups], [len(arrows) for arrows in wanted])
    for group, arrows in zip(groups, wanted, strict=True):
        pairs = zip(group, arrows, strict=True)
        off = [(f, w) for f, w in pairs if f[0] != w[0] or abs(f[1] - w[1]) > 2]
        equal("arrows to other work", off[:3], [])
