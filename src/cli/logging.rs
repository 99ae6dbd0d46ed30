//! Where messages of the layers below go: the standard error, filtered.

use tracing_subscriber::EnvFilter;

use super::output::Output;
use crate::admin::AdminError;
use crate::config::LogLevel;

/// Begins to show messages of at least `level`; flags win over it, `CAIRN_LOG` over both.
///
/// # Errors
/// If `CAIRN_LOG` is not a filter.
pub(super) fn start(output: &Output, level: LogLevel) -> Result<(), AdminError> {
    let level = match (output.quiet, output.verbose) {
        (true, _) => LogLevel::Error,
        (false, 0) => level,
        (false, 1) => level.max(LogLevel::Info),
        (false, 2) => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    let filter = match std::env::var("CAIRN_LOG") {
        Ok(text) if !text.is_empty() => text
            .parse::<EnvFilter>()
            .map_err(|error| AdminError::usage(format!("CAIRN_LOG is not a filter: {error}")))?,
        _ => EnvFilter::new(directives(level)),
    };
    // Fails only if a subscriber is set already, as in tests: that one then stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output.colour())
        .try_init();
    Ok(())
}

/// Our own messages at `level`, those of other crates one step less.
fn directives(level: LogLevel) -> String {
    let others = match level {
        LogLevel::Off => LogLevel::Off,
        LogLevel::Error | LogLevel::Warn => LogLevel::Error,
        LogLevel::Info => LogLevel::Warn,
        LogLevel::Debug => LogLevel::Info,
        LogLevel::Trace => LogLevel::Trace,
    };
    let (level, others) = (level.as_str(), others.as_str());
    format!("{others},cairnfs={level},cairn={level}")
}
