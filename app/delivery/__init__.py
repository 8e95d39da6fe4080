"""
Deliveries: from a row of the outbox to somebody's phone, with a receipt for every step.

Rules are pure and in ``rules/``: when to send, what, to which addresses, and what an answer means. Around them: ``outbox`` (takes
rows under a lease, writes receipts), ``sender`` (the loop of a worker), ``transport`` (HTTP to checked addresses), ``channel_process``
(third-party channel code in a child process), ``sealing`` (secrets at rest), ``destinations`` (what the API does to them).
"""
