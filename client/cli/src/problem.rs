//! Something that is wrong, and what to do about it.

use quoit_ring::NodeId;
use serde_json::{Value, json};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Whose it is; `None`: the cluster's.
    pub(crate) node: Option<NodeId>,
    /// What is wrong, a sentence.
    pub(crate) what: String,
    /// What to do about it; `None` where the sentence says it, or nothing is to be done.
    pub(crate) remedy: Option<String>,
}

impl Problem {
    pub(crate) fn of(node: NodeId, what: String) -> Self {
        Self { node: Some(node), what, remedy: None }
    }

    pub(crate) fn of_cluster(what: String) -> Self {
        Self { node: None, what, remedy: None }
    }

    pub(crate) fn remedied(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// For a terminal: the sentence, and below it what to do.
    pub(crate) fn render(&self) -> String {
        let remedy = self
            .remedy
            .as_ref()
            .map_or_else(String::new, |remedy| format!("         -> {remedy}\n"));
        format!("PROBLEM  {}\n{remedy}", self.what)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "node": self.node.map(|node| node.to_string()),
            "what": self.what,
            "remedy": self.remedy,
        })
    }
}
