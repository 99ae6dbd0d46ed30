//! Errors as they cross the socket and end a command.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::base::{Class, Classify};

/// How a command ended; the number is its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It failed (1).
    Failed,
    /// It was asked in a way that makes no sense (2).
    Usage,
    /// The thing is not there, or not enough of its shards (3).
    Missing,
    /// It was refused: full, or not allowed (4).
    Refused,
}

impl Exit {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Missing => 3,
            Exit::Refused => 4,
        }
    }
}

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            // A damaged thing is one that has not enough good shards.
            Class::Missing | Class::Corrupt => Exit::Missing,
            Class::Full | Class::Denied => Exit::Refused,
            Class::Retry | Class::Closed | Class::Bug => Exit::Failed,
        }
    }
}

/// An error for a person or a script: what happened, how it counts, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct AdminError {
    /// What happened, and to what.
    pub error: String,
    /// How it counts.
    pub class: Exit,
    /// The exit code of a command that ends with it.
    pub exit_code: u8,
    /// What to do next, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl AdminError {
    /// An error that counts as `class`.
    pub fn new(class: Exit, error: impl Into<String>) -> Self {
        AdminError {
            error: error.into(),
            class,
            exit_code: class.code(),
            hint: None,
        }
    }

    /// Something failed (exit code 1).
    pub fn failed(error: impl Into<String>) -> Self {
        AdminError::new(Exit::Failed, error)
    }

    /// The request makes no sense (exit code 2).
    pub fn usage(error: impl Into<String>) -> Self {
        AdminError::new(Exit::Usage, error)
    }

    /// Not found, or not enough shards (exit code 3).
    pub fn missing(error: impl Into<String>) -> Self {
        AdminError::new(Exit::Missing, error)
    }

    /// Full or not allowed (exit code 4).
    pub fn refused(error: impl Into<String>) -> Self {
        AdminError::new(Exit::Refused, error)
    }

    /// An error of a layer below, counted by its class.
    pub fn of<E: Classify + std::fmt::Display>(error: &E) -> Self {
        AdminError::new(error.class().into(), error.to_string())
    }

    /// The same error, with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match self.class {
            Exit::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Exit::Usage => StatusCode::BAD_REQUEST,
            Exit::Missing => StatusCode::NOT_FOUND,
            Exit::Refused => StatusCode::FORBIDDEN,
        };
        (status, axum::Json(self)).into_response()
    }
}
