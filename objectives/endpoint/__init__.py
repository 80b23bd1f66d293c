"""HTTP endpoints that are paid for: one client that counts, remembers, retries and keeps secrets.

An endpoint objective is written in three steps: `EndpointOptions.read` its options, make a
`Client`, and turn items into `Query` records. `evomerge.objectives.template` is the shortest
example::

    class Mine:
        needs = "coefficients"
        mixing = Mixing("model", signed=True)

        def __init__(self, options, *, folder):
            read.check_names(options, (*OPTIONS, "items"))
            self.client = Client(EndpointOptions.read(options))
            self._items = read_items(folder / options["items"])

        @property
        def count(self):
            return len(self._items)

        def observe(self, subject, items):
            body = {"scales": subject.weights_by_model()}
            values = [self._items[i].value for i in items]
            return self.client.ask([Query(body | {"item": v}, tokens=64) for v in values])

        def evaluate(self, subject, items):
            return Scores([answer["score"] for answer in self.observe(subject, items)])

The worker gives the client its `Desk`: the study's file of answers and spend, the budget, and
whose evaluation it is. Without one, in a test or by hand, nothing is kept and nothing is limited.
"""
