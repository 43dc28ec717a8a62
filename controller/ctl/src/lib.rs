//! manx, the operator's command: lab, simulate, explain, diff, check, status.
