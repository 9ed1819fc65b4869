"""Who leads: of several control planes on one log, one decides and sends, and the others stand by.

A lease says who, so that the others know when to take over; it is not what keeps two leaders apart. That is the epoch in
the log (:meth:`controlplane.log.eventlog.EventLog.take_lead`): whoever won the lease raises it, and the database refuses all
that an earlier leader may still want to write, however long it slept.
"""

from controlplane.election.candidate import Election, LeadLostError, LeaseLapsedError
from controlplane.election.lease import Lease, LeaseStore, LeaseUnavailableError

__all__ = ["Election", "LeadLostError", "Lease", "LeaseLapsedError", "LeaseStore", "LeaseUnavailableError"]
