//! `drain`: this peer leaves, and others take over what it holds.

use std::time::Duration;

use super::args::DrainArgs;
use super::failure::Failure;
use super::output::Output;
use super::progress::Progress;
use super::session::Session;
use super::signals::Interrupt;
use crate::admin::AdminError;
use crate::admin::types::{DrainChange, DrainInfo};
use crate::base::ByteSize;

/// How often is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often a line is written where nobody sees a bar, in intervals.
const LINE_EVERY: u32 = 20;
/// So often in a row nothing must have moved before that counts as the end: a peer that restarts, or a round of looking at all
/// that is held, should not be taken for it.
const STUCK_FROM: u32 = 24;

type Done = Result<(), Failure>;

pub(super) async fn run(
    session: &Session,
    output: &Output,
    args: &DrainArgs,
    interrupt: &Interrupt,
) -> Done {
    let backend = session.backend();
    if args.status {
        let info = backend.drain().await?;
        return show(output, &info, &state_text(&info));
    }
    if args.cancel {
        let info = backend.set_drain(DrainChange { cancel: true }).await?;
        return show(output, &info, "this peer stays, and takes shards again");
    }
    tokio::select! {
        biased;
        () = interrupt.wait() => {
            output.say(
                "this peer goes on leaving as long as it runs, and after its next start: `cairn drain` watches, \
                 `cairn drain --cancel` has it stay",
            );
            Err(Failure::Interrupted)
        }
        outcome = watch(session, output) => outcome,
    }
}

fn show(output: &Output, info: &DrainInfo, text: &str) -> Done {
    match output.json {
        true => output.document(info)?,
        false => output.line(text)?,
    }
    Ok(())
}

/// Follows it to the end.
async fn watch(session: &Session, output: &Output) -> Done {
    let backend = session.backend();
    let mut info = backend.set_drain(DrainChange { cancel: false }).await?;
    if info.mounted > 0 {
        output.note(
            "volumes are mounted here: `cairn sync` brings what was written to them into the pool, and it is to be \
             unmounted before this peer is stopped",
        );
    }
    let progress = Progress::new(output, "handing over", None);
    let mut shown_total = 0;
    let mut before = None;
    let mut stuck = 0;
    for round in 0u32.. {
        if info.done {
            break;
        }
        if !info.draining {
            return Err(
                AdminError::failed("this peer stays: `cairn drain --cancel` was given").into(),
            );
        }
        if info.total_bytes != shown_total {
            shown_total = info.total_bytes;
            progress.set_total(output, shown_total);
        }
        progress.set(info.total_bytes.saturating_sub(info.left_bytes));
        if !progress.is_shown() && round % LINE_EVERY == 0 {
            output.say(&state_text(&info));
        }
        // What only waits is handed over when others are done, or back.
        let is_stuck = info.known && info.stuck && info.waiting_shards == 0;
        stuck = match is_stuck && before == Some(info.left_shards) {
            true => stuck + 1,
            false => 0,
        };
        if stuck >= STUCK_FROM {
            progress.finish();
            return Err(homeless(&info).into());
        }
        before = Some(info.left_shards);
        tokio::time::sleep(INTERVAL).await;
        info = backend.drain().await?;
    }
    progress.finish();
    show(output, &info, &state_text(&info))
}

/// In one line.
pub(super) fn state_text(info: &DrainInfo) -> String {
    if !info.draining {
        return "this peer stays".to_owned();
    }
    if info.done {
        return "everything that this peer held is held by others: it is now safe to stop it"
            .to_owned();
    }
    if !info.known {
        return "this peer leaves, and looks at what it holds".to_owned();
    }
    let mut text = format!(
        "this peer leaves: {} of {} handed over",
        ByteSize(info.total_bytes.saturating_sub(info.left_bytes)),
        ByteSize(info.total_bytes)
    );
    if info.waiting_shards > 0 {
        text.push_str(&format!(
            "; {} shards wait until others of their blocks are repaired or back",
            info.waiting_shards
        ));
    }
    if info.homeless_shards > 0 {
        text.push_str(&format!("; {} shards find no place", info.homeless_shards));
    }
    text
}

fn homeless(info: &DrainInfo) -> AdminError {
    AdminError::refused(format!(
        "{} shards ({}) cannot be handed over: of the {} other peers that offer storage ({} away), too few have room for \
         them to survive what they survive now",
        info.homeless_shards,
        ByteSize(info.left_bytes),
        info.peers,
        info.away
    ))
    .hint(
        "with more peers, or more room on those that are there, it goes on by itself; `cairn drain --cancel` has this \
         peer stay",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_follows_how_far_it_is() {
        let mut info = DrainInfo::default();
        assert_eq!(state_text(&info), "this peer stays");
        info.draining = true;
        assert!(state_text(&info).ends_with("looks at what it holds"));
        info.known = true;
        info.total_bytes = 10 << 20;
        info.left_bytes = 6 << 20;
        info.left_shards = 6;
        assert_eq!(
            state_text(&info),
            "this peer leaves: 4 MiB of 10 MiB handed over"
        );
        info.homeless_shards = 6;
        info.peers = 5;
        assert!(state_text(&info).ends_with("6 shards find no place"));
        let error = homeless(&info);
        assert!(
            error
                .error
                .starts_with("6 shards (6 MiB) cannot be handed over")
        );
        assert_eq!(error.class.code(), 4);
        info.done = true;
        assert!(state_text(&info).contains("safe to stop"));
    }
}
