//! `devnet`: a network of real peers on this machine, each its own process.

mod child;
mod place;
mod setup;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use self::child::Child;
use self::place::Place;
use super::args::DevnetArgs;
use super::failure::Failure;
use super::launch::Launch;
use super::output::Output;
use super::signals::Interrupt;
use crate::admin::types::{InviteRequest, JoinRequest, Mounted};
use crate::admin::{AdminError, Backend, Client};

/// How long the peers may take to know and reach each other.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(50);

/// One line of `devnet --json`.
#[derive(Debug, Serialize)]
struct PeerLine {
    index: u32,
    data_dir: String,
    pid: u32,
    addresses: Vec<String>,
}

/// The last line of `devnet --json`.
#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount: Option<Mounted>,
}

pub(super) async fn run(
    output: &Output,
    args: &DevnetArgs,
    launcher: &dyn Launch,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let home = setup::Home::prepare(args, output)?;
    let place = match args.mount.as_deref().map(Place::prepare).transpose() {
        Ok(place) => place,
        Err(error) => {
            home.remove_if_temporary(output);
            return Err(error.into());
        }
    };
    let mut children = Vec::new();
    let outcome = tokio::select! {
        biased;
        () = interrupt.wait() => Ok(()),
        outcome = up_and_watch(output, args, &home, place.as_ref(), &mut children) => outcome,
    };
    output.say("stopping the peers");
    children
        .into_iter()
        .map(Child::stop)
        .collect::<FuturesUnordered<_>>()
        .collect::<()>()
        .await;
    if let Some(place) = place {
        place.leave(output, launcher).await;
    }
    home.remove_if_temporary(output);
    outcome
}

async fn up_and_watch(
    output: &Output,
    args: &DevnetArgs,
    home: &setup::Home,
    place: Option<&Place>,
    children: &mut Vec<Child>,
) -> Result<(), Failure> {
    for dir in home.data_dirs() {
        children.push(Child::start(dir)?);
    }
    let mut clients = Vec::new();
    for child in children.iter_mut() {
        clients.push(child.wait_until_up().await?);
    }
    meet(&clients).await?;
    for (index, (child, client)) in (1u32..).zip(children.iter().zip(&clients)) {
        let line = PeerLine {
            index,
            data_dir: child.data_dir().to_string_lossy().into_owned(),
            pid: child.pid(),
            addresses: client.status().await?.addresses,
        };
        if output.json {
            let text = serde_json::to_string(&line).map_err(std::io::Error::other)?;
            output.line(&text)?;
        } else {
            output.line(&format!(
                "peer {index}  pid {}  {}  {}",
                line.pid,
                line.data_dir,
                line.addresses.first().map_or("", String::as_str)
            ))?;
        }
    }
    wait_until_ready(&clients).await?;
    let mounted = match (place, clients.first()) {
        (Some(place), Some(client)) => Some(place.mount(client).await?),
        _ => None,
    };
    drop(clients);
    if output.json {
        let ready = Ready {
            ready: true,
            mount: mounted,
        };
        let text = serde_json::to_string(&ready).map_err(std::io::Error::other)?;
        output.line(&text)?;
    } else {
        if let Some(mounted) = &mounted {
            output.line(&format!(
                "\nThe volume `{}` of peer 1 is mounted on {}, and stored by all peers.",
                mounted.volume, mounted.dir
            ))?;
        }
        output.line(&lines_to_paste(args, children)?)?;
    }
    watch(output, children).await;
    Ok(())
}

/// Peer 1 invites those that have no network yet.
async fn meet(clients: &[Client]) -> Result<(), AdminError> {
    let Some((first, others)) = clients.split_first() else {
        return Ok(());
    };
    for client in others {
        if client.status().await?.network.is_some() {
            continue;
        }
        // A ticket each: peers of one invitation would count as one failure domain.
        let ticket = first.invite(InviteRequest::default()).await?.ticket;
        client.join(JoinRequest { ticket }).await?;
    }
    Ok(())
}

async fn wait_until_ready(clients: &[Client]) -> Result<(), AdminError> {
    let wanted = u32::try_from(clients.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let mut fewest = 0;
    let all_connected = async {
        loop {
            fewest = u32::MAX;
            for client in clients {
                fewest = fewest.min(client.status().await?.connected);
            }
            if fewest >= wanted {
                return Ok::<(), AdminError>(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
    };
    match tokio::time::timeout(READY_TIMEOUT, all_connected).await {
        Ok(outcome) => outcome,
        Err(_) => Err(AdminError::failed(format!(
            "after {} s a peer is connected to {fewest} of {wanted} others",
            READY_TIMEOUT.as_secs()
        ))
        .hint("look into the log files beside the data directories")),
    }
}

/// Says which peers end by themselves, and goes on without them. Never returns.
async fn watch(output: &Output, children: &mut [Child]) {
    let mut ends: FuturesUnordered<_> = (1u32..)
        .zip(children.iter_mut())
        .map(|(index, child)| async move { (index, child.pid(), child.ended().await) })
        .collect();
    while let Some((index, pid, how)) = ends.next().await {
        output.note(&format!("peer {index} (pid {pid}) ended: {how}"));
    }
    output.note("no peer is left; Ctrl-C ends this command");
    std::future::pending::<()>().await;
}

/// What to try, with this program's own path.
fn lines_to_paste(args: &DevnetArgs, children: &[Child]) -> Result<String, AdminError> {
    let program = program()?;
    let cairn = shell_word(&program);
    // Something that is there: small systems have no list of services.
    let services = Path::new("/etc/services");
    let example = shell_word(if services.is_file() {
        services
    } else {
        &program
    });
    let dir = |index: usize| {
        let child = children.get(index).or(children.last());
        child.map_or_else(String::new, |child| shell_word(child.data_dir()))
    };
    let count = children.len();
    let doomed: Vec<String> = children
        .iter()
        .skip(1)
        .take(args.redundancy.parity_shards().min(count.saturating_sub(2)))
        .map(|child| child.pid().to_string())
        .collect();
    let mut text = format!(
        "\nThe network of {count} is ready. In another terminal:\n\n  \
         link=$({cairn} --data-dir {} put {example}); echo \"$link\"\n",
        dir(0)
    );
    if !doomed.is_empty() {
        text.push_str(&format!("  kill -9 {}\n", doomed.join(" ")));
    }
    text.push_str(&format!(
        "  {cairn} --data-dir {} get \"$link\" | cmp - {example} && echo identical\n\n\
         Ctrl-C here ends all peers.",
        dir(count.saturating_sub(1))
    ));
    Ok(text)
}

/// This program.
fn program() -> Result<PathBuf, AdminError> {
    std::env::current_exe()
        .map_err(|error| AdminError::failed(format!("cannot find this program's file: {error}")))
}

/// A path as one word of a POSIX shell.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words() {
        assert_eq!(shell_word(Path::new("/tmp/a-b_1.x")), "/tmp/a-b_1.x");
        assert_eq!(shell_word(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }
}
