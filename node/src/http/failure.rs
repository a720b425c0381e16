//! What the client library's errors are in HTTP. A write that may be done is always 504 with the
//! outcome `unknown`; one that is certainly not done never is.

use quoit_client::{
    FailureCode, ReadError, TableChangeError, TableError, WriteError, with_sources,
};
use quoit_ring::TableOptionsError;

use super::problem::{Kind, Outcome, Problem};

/// What a node's refusal is.
fn of_code(code: FailureCode) -> Kind {
    match code {
        FailureCode::Invalid => Kind::Invalid,
        FailureCode::UnknownTable => Kind::UnknownTable,
        FailureCode::TooManySiblings => Kind::TooManySiblings,
        FailureCode::Overloaded => Kind::Overloaded,
        FailureCode::WrongConfiguration
        | FailureCode::NotServing
        | FailureCode::Unavailable
        | FailureCode::TimeAhead
        | FailureCode::Conflict => Kind::Unavailable,
        FailureCode::Forbidden => Kind::Forbidden,
        FailureCode::Protocol => Kind::Internal,
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Overloaded { .. } => Kind::Overloaded,
            ReadError::TooLarge { .. } => Kind::TooLarge,
            ReadError::Level(_) => Kind::CannotBeHad,
            ReadError::UnknownTable { .. } => Kind::UnknownTable,
            ReadError::Timeout { .. } => Kind::TimedOut,
            ReadError::Unreachable { .. } | ReadError::Unavailable { .. } | ReadError::Closed => {
                Kind::Unavailable
            }
            ReadError::Forbidden { .. } => Kind::Forbidden,
            ReadError::Refused { code, .. } => of_code(*code),
            ReadError::Damaged { .. } => Kind::Damaged,
            // The library may learn of more; what it means is in the words.
            _ => Kind::Internal,
        };
        Self::new(kind, with_sources(&error)).with_replicas(error.answered(), error.required())
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::Overloaded { .. } => Kind::Overloaded,
            WriteError::TooLarge { .. } => Kind::TooLarge,
            WriteError::Level(_) => Kind::CannotBeHad,
            WriteError::UnknownTable { .. } => Kind::UnknownTable,
            // Its time was over before there was anything to send to a node.
            WriteError::Timeout { trail } if trail.attempts == 0 => Kind::TimedOut,
            // No node took it: that is want of nodes, and not of knowledge.
            WriteError::Timeout { .. }
            | WriteError::Unreachable { .. }
            | WriteError::Unavailable { .. } => Kind::Unavailable,
            WriteError::TooManySiblings { .. } => Kind::TooManySiblings,
            WriteError::Forbidden { .. } => Kind::Forbidden,
            WriteError::Refused { code, .. } => of_code(*code),
            WriteError::Unknown { .. } | WriteError::Closed => Kind::UnknownOutcome,
            WriteError::Read(error) => Self::from(error.clone()).kind,
            _ => Kind::Internal,
        };
        let outcome = if error.is_unknown() { Outcome::Unknown } else { Outcome::NotDone };
        Self::new(kind, with_sources(&error))
            .with_outcome(outcome)
            .with_replicas(error.acknowledged(), error.required())
    }
}

impl From<TableError> for Problem {
    fn from(error: TableError) -> Self {
        let kind = match &error {
            TableError::Unknown { .. } => Kind::UnknownTable,
            TableError::Record(error) => Self::from(error.clone()).kind,
            _ => Kind::Internal,
        };
        Self::new(kind, with_sources(&error))
    }
}

impl From<TableChangeError> for Problem {
    fn from(error: TableChangeError) -> Self {
        let kind = match &error {
            TableChangeError::Options(TableOptionsError::Name(_) | TableOptionsError::ZeroTtl) => {
                Kind::Invalid
            }
            TableChangeError::Options(
                TableOptionsError::Replication { .. }
                | TableOptionsError::Read(_)
                | TableOptionsError::Write(_),
            ) => Kind::CannotBeHad,
            // The options were checked before they were sent: a table is in the way.
            TableChangeError::Refused { code: FailureCode::Invalid, .. } => Kind::TableDiffers,
            TableChangeError::Refused { code, .. } => of_code(*code),
            TableChangeError::Forbidden { .. } => Kind::Forbidden,
            TableChangeError::UnknownTable { .. } => Kind::UnknownTable,
            TableChangeError::NotSent(_) => Kind::Unavailable,
            TableChangeError::Unknown { .. } | TableChangeError::Closed => Kind::UnknownOutcome,
            _ => Kind::Internal,
        };
        let outcome = if error.is_unknown() { Outcome::Unknown } else { Outcome::NotDone };
        Self::new(kind, with_sources(&error)).with_outcome(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoit_client::Trail;

    fn refused(code: FailureCode) -> WriteError {
        WriteError::Refused { code, message: "no".into(), trail: Trail::default() }
    }

    #[test]
    fn a_write_that_may_be_done_is_told_from_one_that_is_not() {
        let unknown = WriteError::Unknown { acknowledged: 1, required: 2, trail: Trail::default() };
        let problem = serde_json::to_value(Problem::from(unknown).document()).unwrap();
        assert_eq!(problem["status"], 504);
        assert_eq!(problem["type"], "urn:quoit:problem:unknown-outcome");
        assert_eq!(problem["outcome"], "unknown");
        assert_eq!((&problem["answered"], &problem["required"]), (&1.into(), &2.into()));
        for error in [
            WriteError::Timeout { trail: Trail { attempts: 1, ..Trail::default() } },
            WriteError::Unavailable { acknowledged: 0, required: 2, trail: Trail::default() },
            refused(FailureCode::NotServing),
            refused(FailureCode::Overloaded),
        ] {
            let problem = Problem::from(error);
            let document = serde_json::to_value(problem.document()).unwrap();
            assert_eq!(
                (&document["status"], &document["outcome"]),
                (&503.into(), &"not_done".into())
            );
            assert_eq!(problem.into_response().headers()["retry-after"], "1");
        }
    }

    #[test]
    fn what_is_wrong_for_ever_is_not_called_a_fault_of_the_server() {
        for (error, status) in [
            (refused(FailureCode::Invalid), 400),
            (refused(FailureCode::UnknownTable), 404),
            (WriteError::TooManySiblings { message: String::new() }, 409),
            (WriteError::TooLarge { what: "the value", bytes: 2, bytes_max: 1 }, 413),
            (WriteError::Read(ReadError::Timeout { trail: Trail::default() }), 504),
            (WriteError::Timeout { trail: Trail::default() }, 504),
        ] {
            assert_eq!(Problem::from(error).status().as_u16(), status);
        }
        let damaged = ReadError::Damaged { trail: Trail::default() };
        assert_eq!(Problem::from(damaged).status().as_u16(), 502);
    }
}
