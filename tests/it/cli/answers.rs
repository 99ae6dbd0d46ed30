//! What a peer without a network says of others, of members, conflicts and paths: always the same.

use std::path::Path;

use cairnfs::admin::AdminError;
use cairnfs::admin::types::{
    ConflictInfo, ConflictSideInfo, ConflictsRequest, PathStat, PeerInfo, TrustInfo, VolumeEnd,
    VolumeMemberInfo, VolumeMembers, VolumeTicketInfo,
};

/// This peer, and one that has lost trust.
pub fn peers() -> Vec<PeerInfo> {
    let peer = |peer: &str, state: &str| PeerInfo {
        peer: peer.to_owned(),
        state: state.to_owned(),
        live: state == "own",
        ..PeerInfo::default()
    };
    let trust = TrustInfo {
        percent: 20,
        displaced: true,
        disbelieved: true,
        checks: 40,
        wrong: 3,
        why: Some("answered 3 of 40 checks wrongly, last 2 h ago".to_owned()),
        ..TrustInfo::default()
    };
    vec![
        peer("12D3KooWfake", "own"),
        PeerInfo {
            trust: Some(trust),
            ..peer("12D3KooWother", "away")
        },
    ]
}

/// Members of a volume of this name, of whom one was shut out; of `alone` only its owner.
pub fn members(name: String) -> VolumeMembers {
    let member = |peer: &str, role: &str, invited_by: Option<&str>| VolumeMemberInfo {
        peer: peer.to_owned(),
        role: role.to_owned(),
        invited_by: invited_by.map(ToOwned::to_owned),
        own: peer == "12D3KooWfake",
        revoked: None,
    };
    let mut members = vec![
        member("12D3KooWother", "owner", None),
        member("12D3KooWfake", "writer", Some("12D3KooWother")),
        member("12D3KooWthird", "reader", Some("12D3KooWfake")),
    ];
    if name == "alone" {
        members.truncate(1);
    }
    let mut tickets = Vec::new();
    if name != "alone" {
        let mut gone = member("12D3KooWgone", "writer", Some("12D3KooWother"));
        gone.revoked = Some(VolumeEnd {
            by: "12D3KooWother".to_owned(),
            at_ms: 1_700_000_000_000,
            refused: 3,
        });
        members.push(gone);
        tickets.push(VolumeTicketInfo {
            id: "0badcafe".to_owned(),
            by: "12D3KooWfake".to_owned(),
            read_only: true,
            expires_ms: 1_700_000_000_000,
        });
    }
    VolumeMembers {
        name,
        members,
        tickets,
    }
}

/// What is contested below a directory; nothing below one that ends with `quiet`.
pub fn conflicts(request: ConflictsRequest) -> Vec<Result<ConflictInfo, AdminError>> {
    let dir = request.dir_hex.and_then(|dir| dir.path());
    let dir = dir.map_or_else(|| "/mnt".to_owned(), |dir| dir.display().to_string());
    if dir.ends_with("quiet") {
        return Vec::new();
    }
    let side = |name: &str, peer: Option<&str>| ConflictSideInfo {
        path: format!("{dir}/{name}"),
        peer: peer.map(ToOwned::to_owned),
        own: peer == Some("12D3KooWfake"),
        at_ms: peer.map(|_| 1_795_386_901_000),
        ..ConflictSideInfo::default()
    };
    let conflict = |kind: &str, path: &str, sides| ConflictInfo {
        volume: "shared".to_owned(),
        kind: kind.to_owned(),
        what: format!("it is {kind}"),
        path: format!("{dir}/{path}"),
        sides,
        ..ConflictInfo::default()
    };
    let other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    vec![
        Ok(conflict(
            "content",
            "a",
            vec![
                side("a", Some("12D3KooWfake")),
                side("a.conflict-x", Some(other)),
            ],
        )),
        Ok(conflict("returned", "b", vec![side("b", None)])),
    ]
}

/// How safe a path of a mount is.
pub fn path_stat(path: &Path) -> PathStat {
    let path = path.display().to_string();
    PathStat {
        line: format!("{path} is as safe as houses"),
        path,
        volume: "default".to_owned(),
        files: 3,
        directories: 1,
        size_bytes: 1 << 20,
        redundancy: vec!["4+2".to_owned()],
        blocks: 2,
        shards: 12,
        shards_present: 11,
        survives: Some(1),
        peers: 6,
        ..PathStat::default()
    }
}
