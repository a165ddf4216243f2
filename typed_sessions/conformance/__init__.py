"""The conformance kit of stores: what `stores/base.py` promises, as named checks. Its public face is `typed_sessions.testing`.

report.py     what a run says: the checks that passed, failed, were left out; and how a check says what it expected
shape.py      the names, kinds and types of a store's verbs and answers
watch.py      which verb is under way, for the case that it does not return; and threads that nobody waits for
subject.py    the store under test: one way to call a verb, and several at once, whether it is synchronous or not
model.py      the contract as a dictionary and three pure functions
lockstep.py   the store and the model told the same things, and their answers compared
stand.py      what a check stands on: a fresh store, a time, records to plant
creation.py, uses.py, commits.py, lists.py, renewals.py, endings.py, sweeps.py, bounds.py, limits.py, cancelled.py
              the checks, a promise each
together.py   verbs at the same time: there must be an order of them that explains their answers
orders.py     requests of several verbs, in every order of their store calls
machine.py    random histories (Hypothesis: the only module that imports it)
run.py        all of them in one call

The kit knows the verbs and the plain data of a store; no manager, key, cookie or test runner.
"""
