//! Commands that ask and print: `status`, `peers`, `quota`, `stat`, `ls`, `list`.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use futures::StreamExt;
use serde::Serialize;

use super::args::{LsArgs, QuotaArgs, StatusArgs};
use super::drain;
use super::failure::Failure;
use super::mount::absolute;
use super::output::{Output, Table, printable};
use super::session::Session;
use super::time::utc_time;
use super::upkeep;
use super::volume::{part, place};
use crate::admin::types::{
    HexPath, Kind, LinkRequest, Listed, LookupInfo, LsEntry, LsRequest, PathRequest, PeerInfo,
    QuotaInfo, SetQuota, VolumeClock, VolumeInfo,
};
use crate::admin::{AdminError, ItemStream};
use crate::base::ByteSize;
use crate::config::Quota;

type Done = Result<(), Failure>;

pub(super) async fn status(session: &Session, output: &Output, args: &StatusArgs) -> Done {
    let status = session.backend().status().await?;
    if args.check {
        let health = status.health.unwrap_or_default();
        return upkeep::check(output, &health);
    }
    if output.json {
        return Ok(output.document(&status)?);
    }
    let network = match &status.network {
        Some(network) if status.storage_only => format!("{network} (storage only)"),
        Some(network) => network.clone(),
        None => "none yet: `cairn invite` founds one, `cairn join TICKET` enters one".to_owned(),
    };
    let process = if session.is_embedded() {
        "not running; `cairn node` starts it".to_owned()
    } else {
        format!(
            "process {}, up {}",
            status.pid,
            duration_text(status.uptime_ms)
        )
    };
    let mut rows = vec![
        ("peer", status.peer.clone()),
        ("version", status.version.clone()),
        ("running", process),
        ("data", status.data_dir.clone()),
        ("network", network),
        (
            "members",
            format!("{} known, {} connected", status.members, status.connected),
        ),
    ];
    if let Some(health) = &status.health {
        rows.push(("safety", health.line.clone()));
    }
    if let Some(drain) = &status.drain {
        rows.push(("leaving", drain::state_text(drain)));
    }
    if !status.distrusted.is_empty() {
        let count = peers_text(status.distrusted.len() as u32);
        let text = format!("{count} answered badly and got less of it (`cairn peers`)");
        rows.push(("trust", text));
    }
    if status.lookups.count > 0 {
        let LookupInfo {
            count,
            hops,
            messages,
            ..
        } = status.lookups;
        let text = format!("{count}, in {hops} rounds with {messages} messages");
        rows.push(("look-ups", text));
    }
    if !status.zone.is_empty() {
        rows.push(("zone", status.zone.clone()));
    }
    for address in &status.addresses {
        rows.push(("address", address.clone()));
    }
    rows.extend(quota_rows(&status.storage));
    for volume in &status.volumes {
        rows.push(("volume", volume_text(volume)));
        rows.extend(
            volume
                .clocks
                .iter()
                .map(|clock| ("clock", clock_text(volume, clock))),
        );
        rows.extend(
            volume
                .forked
                .iter()
                .map(|peer| ("forked", fork_text(volume, peer))),
        );
    }
    for worker in &status.workers {
        rows.push(("job", upkeep::worker_text(worker)));
    }
    Ok(print_rows(output, &rows)?)
}

/// A volume on one line: where it is mounted, and what of it waits.
fn volume_text(volume: &VolumeInfo) -> String {
    let place = match &volume.mounted_on {
        Some(_) => format!("on {}", place(volume)),
        None if volume.local => "not mounted".to_owned(),
        None => "its tree is not on this machine".to_owned(),
    };
    let mut text = format!("{}: {place}", volume.name);
    if let Some(part) = part(volume) {
        text.push_str(&format!("; shared, {part}"));
    }
    if let Some(usage) = &volume.usage {
        text.push_str(&format!(
            "; {} dirty, {} queued, {} under-redundant",
            ByteSize(usage.dirty_bytes),
            ByteSize(usage.queued_bytes),
            ByteSize(usage.under_redundant_bytes)
        ));
    }
    if let Some(tail) = volume.tail.filter(|tail| tail.wanted > 0) {
        text.push_str(&format!(
            "; the last changes are at {} of {} other peers",
            tail.kept, tail.wanted
        ));
    }
    match volume.conflicts {
        None | Some(0) => {}
        Some(1) => text.push_str("; 1 conflict (`cairn conflicts`)"),
        Some(count) => text.push_str(&format!("; {count} conflicts (`cairn conflicts`)")),
    }
    text
}

/// A clock that is ahead, and what comes of it.
fn clock_text(volume: &VolumeInfo, clock: &VolumeClock) -> String {
    let (name, by) = (&volume.name, duration_text(clock.ahead_ms));
    match clock.own {
        true => format!(
            "this machine's is {by} ahead of others of `{name}`, who see what it writes when their clocks are there: set it right"
        ),
        false => format!(
            "that of {} is {by} ahead: what it writes to `{name}` is seen here when it is due",
            clock.peer
        ),
    }
}

fn fork_text(volume: &VolumeInfo, peer: &str) -> String {
    format!(
        "{peer} wrote two different things to `{}` under one name: its disk was copied, or put back from a backup; \
         what others had not built on is refused",
        volume.name
    )
}

fn quota_rows(quota: &QuotaInfo) -> Vec<(&'static str, String)> {
    let limit = ByteSize(quota.quota_bytes);
    let auto = if quota.auto {
        " (auto: half of the free space)"
    } else {
        ""
    };
    let mut rows = vec![
        ("quota", format!("{limit}{auto}")),
        ("used", ByteSize(quota.used_bytes).to_string()),
        ("free", ByteSize(quota.free_bytes).to_string()),
        (
            "reserved",
            format!(
                "{} of the disk stay free",
                ByteSize(quota.reserve_free_bytes)
            ),
        ),
    ];
    if !quota.offer {
        rows.push(("offer", "stores for nobody else".to_owned()));
    }
    if let Some(reason) = &quota.intake_stopped {
        rows.push(("intake", format!("stopped: {reason}")));
    }
    rows
}

fn print_rows(output: &Output, rows: &[(&str, String)]) -> io::Result<()> {
    let mut text = String::new();
    let mut before = "";
    for (name, value) in rows {
        let shown = if *name == before { "" } else { name };
        text.push_str(&format!("{shown:<10}{}\n", printable(value)));
        before = name;
    }
    output.write(text.as_bytes())
}

fn duration_text(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// What `peers --json` prints.
#[derive(Serialize)]
struct PeerLines<'p> {
    peers: &'p [PeerInfo],
}

pub(super) async fn peers(session: &Session, output: &Output) -> Done {
    let peers = session.backend().peers().await?;
    if output.json {
        return Ok(output.document(&PeerLines { peers: &peers })?);
    }
    let mut table = Table::new(&[
        "peer", "state", "path", ">rtt", ">offers", ">free", "zone", "version", "address",
    ]);
    for peer in &peers {
        let mut state = peer.state.clone();
        if peer.leaving {
            state.push_str(", leaving");
        }
        if peer.storage_only {
            state.push_str(" (storage only)");
        }
        let offers = match peer.capacity_bytes {
            0 => "nothing".to_owned(),
            bytes => ByteSize(bytes).to_string(),
        };
        table.row([
            peer.peer.clone(),
            state,
            peer.path.clone().unwrap_or_else(|| "-".to_owned()),
            peer.rtt_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
            offers,
            ByteSize(peer.free_bytes).to_string(),
            peer.zone.clone(),
            peer.version.clone(),
            peer.addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    output.write(table.render().as_bytes())?;
    for peer in &peers {
        if let Some(line) = upkeep::trust_line(peer) {
            output.line(&line)?;
        }
    }
    if peers.len() <= 1 {
        output.note("this peer is alone: `cairn invite` makes a ticket for another machine");
    }
    Ok(())
}

pub(super) async fn quota(session: &Session, output: &Output, args: &QuotaArgs) -> Done {
    let quota = match args.size {
        None => session.backend().quota().await?,
        Some(size) => {
            let quota_bytes = match size {
                Quota::Auto => None,
                Quota::Bytes(size) => Some(size.0),
            };
            session
                .backend()
                .set_quota(SetQuota { quota_bytes })
                .await?
        }
    };
    if output.json {
        return Ok(output.document(&quota)?);
    }
    Ok(print_rows(output, &quota_rows(&quota))?)
}

pub(super) async fn stat(session: &Session, output: &Output, what: &str) -> Done {
    // Whatever is there under that name is meant, unless it can only be a link.
    if !what.starts_with("cairn:") && Path::new(what).symlink_metadata().is_ok() {
        return stat_path(session, output, Path::new(what)).await;
    }
    let request = LinkRequest {
        link: what.to_owned(),
    };
    let stat = session.backend().stat(request).await?;
    if output.json {
        output.document(&stat)?;
    } else {
        let survives = match stat.survives {
            None => "no: it cannot be read now".to_owned(),
            Some(0) => "no loss of a peer".to_owned(),
            Some(count) => format!("the loss of any {}", peers_text(count)),
        };
        let rows = [
            ("kind", kind_text(stat.kind).to_owned()),
            ("size", ByteSize(stat.size_bytes).to_string()),
            ("redundancy", format!(" {}", stat.redundancy)),
            ("blocks", stat.blocks.to_string()),
            (
                "shards",
                shards_text(stat.shards_present, stat.shards, stat.peers),
            ),
            ("survives", survives),
        ];
        print_rows(output, &rows)?;
    }
    if stat.unreadable_blocks > 0 {
        return Err(unreadable(stat.unreadable_blocks, stat.blocks).into());
    }
    Ok(())
}

async fn stat_path(session: &Session, output: &Output, path: &Path) -> Done {
    let path_hex = HexPath::new(&absolute(path)?);
    let stat = session
        .backend()
        .stat_path(PathRequest { path_hex })
        .await?;
    if output.json {
        output.document(&stat)?;
    } else {
        let count = |count: u64, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        let files = count(stat.files, "file", "files");
        let directories = count(stat.directories, "directory", "directories");
        let kept = stat.redundancy.join(", ");
        let rows = [
            ("volume", stat.volume.clone()),
            ("holds", format!("{files}, {directories}")),
            ("size", ByteSize(stat.size_bytes).to_string()),
            ("redundancy", format!(" {kept}")),
            ("blocks", stat.blocks.to_string()),
            (
                "shards",
                shards_text(stat.shards_present, stat.shards, stat.peers),
            ),
            ("safety", stat.line.clone()),
        ];
        // A file without blocks has neither.
        let rows = rows.iter().filter(|(name, _)| {
            stat.blocks > 0 || !["redundancy", "blocks", "shards"].contains(name)
        });
        print_rows(output, &rows.cloned().collect::<Vec<_>>())?;
    }
    if stat.unreadable_blocks > 0 {
        return Err(unreadable(stat.unreadable_blocks, stat.blocks).into());
    }
    Ok(())
}

fn shards_text(present: u64, of: u64, peers: u32) -> String {
    format!("{present} of {of} present on {}", peers_text(peers))
}

fn unreadable(count: u64, of: u64) -> AdminError {
    AdminError::missing(format!(
        "{count} of {of} blocks have too few shards within reach"
    ))
    .hint("start more of the peers that hold it: cairn peers")
}

pub(super) fn peers_text(count: u32) -> String {
    match count {
        1 => "1 peer".to_owned(),
        count => format!("{count} peers"),
    }
}

const fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Tree => "tree",
    }
}

pub(super) async fn ls(session: &Session, output: &Output, args: &LsArgs) -> Done {
    let path = args.path.as_deref().unwrap_or_else(|| "".as_ref());
    let request = LsRequest::new(args.link.as_str(), path.as_os_str().as_bytes());
    let entries = session.backend().ls(request).await?;
    each(output, "entries", entries, |entry: &LsEntry| {
        let name = printable(&entry.name).replace('\n', "\\n");
        let arrow = match &entry.target {
            Some(target) => format!(" -> {}", printable(target).replace('\n', "\\n")),
            None if entry.kind == "directory" => "/".to_owned(),
            None => String::new(),
        };
        let size = match entry.kind.as_str() {
            "file" => ByteSize(entry.size_bytes).to_string(),
            _ => String::new(),
        };
        let time = utc_time(entry.mtime_ns.div_euclid(1_000_000_000));
        format!(
            "{}{} {size:>10} {time} {name}{arrow}",
            kind_letter(&entry.kind),
            mode_text(entry.mode)
        )
    })
    .await
}

fn kind_letter(kind: &str) -> char {
    match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "hardlink" => 'h',
        _ => '-',
    }
}

/// Permission bits as `ls -l` writes them.
fn mode_text(mode: u32) -> String {
    let triple = |shift: u32, special: bool, letters: (char, char)| {
        let bits = mode >> shift & 7;
        let execute = match (bits & 1 == 1, special) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letters.0,
            (false, true) => letters.1,
        };
        let flag = |bit: u32, letter: char| if bits & bit == 0 { '-' } else { letter };
        [flag(4, 'r'), flag(2, 'w'), execute]
    };
    [
        triple(6, mode & 0o4000 != 0, ('s', 'S')),
        triple(3, mode & 0o2000 != 0, ('s', 'S')),
        triple(0, mode & 0o1000 != 0, ('t', 'T')),
    ]
    .concat()
    .into_iter()
    .collect()
}

pub(super) async fn list(session: &Session, output: &Output) -> Done {
    let items = session.backend().list().await?;
    each(output, "puts", items, |item: &Listed| {
        let time = utc_time((item.put_ms / 1000).cast_signed());
        let size = ByteSize(item.size_bytes);
        let name = printable(&item.name).replace('\n', "\\n");
        let slash = if item.kind == Kind::Tree { "/" } else { "" };
        let until = item.expires_ms.map_or_else(String::new, |expires_ms| {
            format!(" (until {})", utc_time((expires_ms / 1000).cast_signed()))
        });
        format!("{time} {size:>10} {} {name}{slash}{until}", item.link)
    })
    .await
}

/// Prints items as they come: a line each, or as the list `name` of one JSON object.
async fn each<T: Serialize>(
    output: &Output,
    name: &str,
    mut items: ItemStream<T>,
    line: impl Fn(&T) -> String,
) -> Done {
    let mut separator = format!("{{\"{name}\":[\n  ");
    let mut buffer = String::new();
    while let Some(item) = items.next().await {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                if output.json {
                    buffer.push_str(&list_end(name, &separator, Some(&error))?);
                    output.document_end(&buffer)?;
                } else {
                    output.write(buffer.as_bytes())?;
                }
                return Err(error.into());
            }
        };
        if output.json {
            let json = serde_json::to_string(&item).map_err(io::Error::other)?;
            buffer.push_str(&separator);
            buffer.push_str(&json);
            ",\n  ".clone_into(&mut separator);
        } else {
            buffer.push_str(&line(&item));
            buffer.push('\n');
        }
        if buffer.len() > 32 << 10 {
            output.write(buffer.as_bytes())?;
            buffer.clear();
        }
    }
    if output.json {
        buffer.push_str(&list_end(name, &separator, None)?);
        return Ok(output.document_end(&buffer)?);
    }
    Ok(output.write(buffer.as_bytes())?)
}

/// The end of the list `name`, its beginning too if it has no items yet, and beside it why it is not whole.
fn list_end(name: &str, separator: &str, error: Option<&AdminError>) -> io::Result<String> {
    let begin = match separator.starts_with('{') {
        true => format!("{{\"{name}\":["),
        false => String::new(),
    };
    let Some(error) = error else {
        return Ok(format!("{begin}\n]}}\n"));
    };
    let fields = serde_json::to_string(error)?;
    let fields = fields.strip_prefix('{').unwrap_or(&fields);
    Ok(format!("{begin}\n],\n{fields}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_in_ls() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4755, "rwsr-xr-x"),
            (0o6644, "rwSr-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
            (0, "---------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }
}
