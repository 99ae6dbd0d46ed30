//! The namespace of a volume: against a plain tree for one writer, and among replicas of several.

mod converge;
mod examples;
mod format;
mod model;
mod support;
