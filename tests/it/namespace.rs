//! The namespace of a volume: against a plain tree for one writer, and among replicas of several.

pub mod converge;
mod drafts;
mod examples;
mod format;
mod join;
mod model;
pub mod support;
