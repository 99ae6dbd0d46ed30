//! Admission between two ends, honest and hostile.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tokio::io::DuplexStream;

use super::*;
use crate::base::Clock;
use crate::crypto::{MembershipChain, NetworkSecrets, SigningKey, Terms};
use crate::net::testing::{golden, lines};

struct Member {
    gate: Gate,
    peer: PeerId,
}

struct Network {
    secrets: NetworkSecrets,
    chain: MembershipChain,
    founder: SigningKey,
    entropy: Entropy,
}

impl Network {
    fn found(seed: u64) -> Network {
        let entropy = Entropy::seeded(seed);
        let founder = SigningKey::generate(&entropy);
        let (secrets, chain) = MembershipChain::found(&founder, &entropy);
        Network {
            secrets,
            chain,
            founder,
            entropy,
        }
    }

    fn founder(&self) -> Member {
        Member {
            gate: self.gate(self.secrets.clone(), &self.chain),
            peer: self.founder.peer(),
        }
    }

    fn gate(&self, secrets: NetworkSecrets, chain: &MembershipChain) -> Gate {
        let clock = Clock::simulated(1_000_000);
        Gate::new(secrets, chain, Lists::default(), clock)
    }

    fn invite(&self, storage_only: bool) -> (MembershipChain, PeerId) {
        let terms = Terms {
            storage_only,
            independent: false,
            expires_ms: 2_000_000,
        };
        let device = SigningKey::generate(&self.entropy).peer();
        let (invitation, key) = self
            .chain
            .invite(&self.founder, 0, terms, 1_000_000, &self.entropy)
            .unwrap();
        let chain = self.chain.admit(&invitation, &key, device, 1_000_000);
        (chain.unwrap(), device)
    }

    fn member(&self, storage_only: bool) -> Member {
        let (chain, peer) = self.invite(storage_only);
        let gate = self.gate(self.secrets.without_convergence(), &chain);
        Member { gate, peer }
    }
}

fn ends(own: PeerId, peer: PeerId, side: Side, binding: &[u8]) -> Ends {
    Ends {
        own,
        peer,
        side,
        binding: binding.to_vec(),
    }
}

type Outcome = Result<(Greeted, ()), AdmissionError>;

async fn run(
    own: &Member,
    peer: PeerId,
    side: Side,
    binding: &[u8],
    mut stream: DuplexStream,
) -> Outcome {
    let entropy = Entropy::seeded(side as u64 + 77);
    let record = Bytes::from(format!("record of {}", own.peer));
    let ends = ends(own.peer, peer, side, binding);
    admit(&mut stream, &ends, &own.gate, &entropy, record, || Ok(())).await
}

async fn meet(dialer: &Member, listener: &Member) -> (Outcome, Outcome) {
    let (a, b) = tokio::io::duplex(64 << 10);
    tokio::join!(
        run(dialer, listener.peer, Side::Dialer, b"binding", a),
        run(listener, dialer.peer, Side::Listener, b"binding", b),
    )
}

#[tokio::test]
async fn members_admit_each_other_and_learn_their_records() {
    let network = Network::found(1);
    let (founder, guest) = (network.founder(), network.member(true));
    let (at_guest, at_founder) = meet(&guest, &founder).await;
    let (greeted, ()) = at_founder.unwrap();
    assert!(greeted.admitted.storage_only);
    assert!(greeted.admitted.zone.starts_with("invitation-"));
    assert_eq!(greeted.record, format!("record of {}", guest.peer));
    let (greeted, ()) = at_guest.unwrap();
    assert_eq!(greeted.admitted, Admitted::default());
    assert_eq!(greeted.record, format!("record of {}", founder.peer));
}

#[tokio::test]
async fn a_stranger_is_shown_nothing() {
    let network = Network::found(1);
    let listener = network.founder();
    // Another network; and one with the right chain that does not know the secret.
    let other = Network::found(2);
    let (chain, peer) = network.invite(false);
    let expelled = Member {
        gate: network.gate(other.secrets.clone(), &chain),
        peer,
    };
    for stranger in [other.founder(), expelled] {
        let (a, b) = tokio::io::duplex(64 << 10);
        let (a, mut tap) = tapped(a);
        let (at_stranger, at_listener) = tokio::join!(
            run(&stranger, listener.peer, Side::Dialer, b"x", a),
            run(&listener, stranger.peer, Side::Listener, b"x", b),
        );
        assert!(matches!(
            at_listener,
            Err(AdmissionError::Denied(Denied::Stranger))
        ));
        assert!(matches!(at_stranger, Err(AdmissionError::Io(_))));
        // All that it was sent: one nonce.
        let shown = tap.recv().await.unwrap();
        assert_eq!(shown, HEADER_BYTES + 1 + 8 + 1 + 6 + 34);
    }
}

/// Passes everything on; tells in the end how many bytes went to this end.
fn tapped(far: DuplexStream) -> (DuplexStream, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let (near, mut inner) = tokio::io::duplex(64 << 10);
    let (report, tap) = tokio::sync::mpsc::unbounded_channel();
    let mut far = far;
    tokio::spawn(async move {
        let copied = tokio::io::copy_bidirectional(&mut inner, &mut far).await;
        let _ = report.send(copied.map_or(usize::MAX, |(_, to_near)| to_near as usize));
    });
    (near, tap)
}

#[tokio::test]
async fn a_dialer_shows_its_proof_only_until_the_listener_has_proved() {
    let network = Network::found(1);
    let dialer = network.member(false);
    let impostor = Network::found(2).founder();
    let (at_dialer, at_impostor) = meet(&dialer, &impostor).await;
    assert!(matches!(
        at_impostor,
        Err(AdmissionError::Denied(Denied::Stranger))
    ));
    assert!(matches!(at_dialer, Err(AdmissionError::Io(_))));
}

#[tokio::test]
async fn a_proof_counts_on_its_own_connection_only() {
    let network = Network::found(1);
    let (dialer, listener) = (network.member(false), network.founder());
    // Somebody in the middle: two connections with two exporters.
    let (a, b) = tokio::io::duplex(64 << 10);
    let (_, at_listener) = tokio::join!(
        run(&dialer, listener.peer, Side::Dialer, b"one", a),
        run(&listener, dialer.peer, Side::Listener, b"other", b),
    );
    assert!(matches!(
        at_listener,
        Err(AdmissionError::Denied(Denied::Stranger))
    ));
}

/// Plays back what a member sent once, on a new connection.
#[tokio::test]
async fn a_replayed_proof_is_refused() {
    let network = Network::found(1);
    let (dialer, listener) = (network.member(false), network.founder());
    let (a, mut record_a) = tokio::io::duplex(64 << 10);
    let (mut record_b, b) = tokio::io::duplex(64 << 10);
    let recording = async {
        let mut sent = Vec::new();
        let (mut from_a, mut to_a) = tokio::io::split(&mut record_a);
        let (mut from_b, mut to_b) = tokio::io::split(&mut record_b);
        let forth = async {
            let mut buffer = [0u8; 4096];
            while let Ok(read @ 1..) = from_a.read(&mut buffer).await {
                sent.extend_from_slice(&buffer[..read]);
                to_b.write_all(&buffer[..read]).await.unwrap();
            }
        };
        let back = tokio::io::copy(&mut from_b, &mut to_a);
        tokio::select! {
            () = forth => {}
            _ = back => {}
        }
        sent
    };
    let both = async {
        tokio::join!(
            run(&dialer, listener.peer, Side::Dialer, b"binding", a),
            run(&listener, dialer.peer, Side::Listener, b"binding", b),
        )
    };
    let (sent, (_, admitted)) = tokio::join!(recording, both);
    assert!(admitted.is_ok());

    let (mut replayer, victim) = tokio::io::duplex(64 << 10);
    replayer.write_all(&sent).await.unwrap();
    let mut stream = victim;
    let ends = ends(listener.peer, dialer.peer, Side::Listener, b"binding");
    let entropy = Entropy::seeded(12345);
    let gate = &listener.gate;
    let outcome = admit(&mut stream, &ends, gate, &entropy, Bytes::new(), || Ok(())).await;
    assert!(matches!(
        outcome,
        Err(AdmissionError::Denied(Denied::Stranger))
    ));
}

#[tokio::test]
async fn a_chain_of_somebody_else_or_a_listed_peer_is_refused() {
    let network = Network::found(1);
    let listener = network.founder();
    let (chain, _) = network.invite(false);
    let thief = Member {
        gate: network.gate(network.secrets.clone(), &chain),
        peer: SigningKey::generate(&network.entropy).peer(),
    };
    let (at_thief, at_listener) = meet(&thief, &listener).await;
    assert!(matches!(
        at_thief,
        Err(AdmissionError::Refused(Denied::Chain))
    ));
    assert!(matches!(
        at_listener,
        Err(AdmissionError::Denied(Denied::Chain))
    ));

    let guest = network.member(false);
    let others = BTreeSet::from([PeerId([9; 32])]);
    for lists in [
        Lists {
            denied: BTreeSet::from([guest.peer]),
            ..Lists::default()
        },
        Lists {
            allowed: others,
            ..Lists::default()
        },
    ] {
        listener.gate.set_lists(lists);
        let (_, at_listener) = meet(&guest, &listener).await;
        assert!(matches!(
            at_listener,
            Err(AdmissionError::Denied(Denied::Listed))
        ));
    }
}

#[tokio::test]
async fn a_full_listener_says_so() {
    let network = Network::found(1);
    let (dialer, listener) = (network.member(false), network.founder());
    let (a, mut b) = tokio::io::duplex(64 << 10);
    let ends = ends(listener.peer, dialer.peer, Side::Listener, b"b");
    let entropy = Entropy::seeded(5);
    let full = || Err::<(), _>(Denied::Full);
    let (at_dialer, at_listener) = tokio::join!(
        run(&dialer, listener.peer, Side::Dialer, b"b", a),
        admit(&mut b, &ends, &listener.gate, &entropy, Bytes::new(), full),
    );
    let error = at_dialer.unwrap_err();
    assert!(matches!(error, AdmissionError::Refused(Denied::Full)));
    assert_eq!(error.class(), Class::Retry);
    assert!(matches!(
        at_listener,
        Err(AdmissionError::Denied(Denied::Full))
    ));
}

proptest! {
    #![proptest_config(crate::net::testing::cases(64))]

    #[test]
    fn random_bytes_admit_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..2000), frame: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let network = Network::found(3);
            let listener = network.founder();
            let (mut a, mut b) = tokio::io::duplex(64 << 10);
            if frame {
                let meta_len = bytes.len() as u32;
                let header = Header { meta_len, opcode: STEP_NONCE, ..Header::bare(Kind::Hello, 0) };
                a.write_all(&header.encode()).await.unwrap();
            }
            a.write_all(&bytes).await.unwrap();
            a.shutdown().await.unwrap();
            let ends = ends(listener.peer, PeerId([1; 32]), Side::Listener, b"b");
            let entropy = Entropy::seeded(5);
            let outcome = admit(&mut b, &ends, &listener.gate, &entropy, Bytes::new(), || Ok(()));
            assert!(outcome.await.is_err());
        });
    }
}

/// Every step of the exchange, and what its reader makes of it.
#[test]
fn every_step_has_the_form_that_is_written_down() {
    let frame = |step, meta: Vec<u8>| {
        let frame = Outgoing::assemble(Kind::Hello, step, 0, &meta, Bytes::new());
        frame.head.to_vec()
    };
    let nonce = Nonce {
        version: ADMISSION_VERSION,
        nonce: [0x11; PROOF_BYTES],
    };
    let proof = Proof {
        epoch: 3,
        mac: [0x22; PROOF_BYTES],
    };
    let chain = Chain {
        chain: Bytes::from_static(b"chain"),
        record: Bytes::from_static(b"record"),
    };
    let verdict = |denied| frame(STEP_VERDICT, wire::encode(&Verdict { denied }));
    let steps = [
        ("nonce", frame(STEP_NONCE, wire::encode(&nonce))),
        ("proof", frame(STEP_PROOF, wire::encode(&proof))),
        ("chain", frame(STEP_CHAIN, wire::encode(&chain))),
        ("welcome", verdict(None)),
        ("denied-chain", verdict(Some(Denied::Chain))),
        ("denied-listed", verdict(Some(Denied::Listed))),
        ("denied-full", verdict(Some(Denied::Full))),
    ];
    let steps = steps.map(|(name, bytes)| (name.to_owned(), bytes));
    assert_eq!(golden("hello"), steps, "\n{}", lines("hello", &steps));
    let meta = |at: usize| golden("hello")[at].1[HEADER_BYTES..].to_vec();
    let read: Nonce = wire::decode(&meta(0), HELLO_META_MAX_BYTES).unwrap();
    assert_eq!((read.version, read.nonce), (nonce.version, nonce.nonce));
    let read: Proof = wire::decode(&meta(1), HELLO_META_MAX_BYTES).unwrap();
    assert_eq!((read.epoch, read.mac), (proof.epoch, proof.mac));
    let read: Chain = wire::decode(&meta(2), HELLO_META_MAX_BYTES).unwrap();
    assert_eq!((read.chain, read.record), (chain.chain, chain.record));
    let reasons = [
        None,
        Some(Denied::Chain),
        Some(Denied::Listed),
        Some(Denied::Full),
    ];
    for (at, denied) in (3..).zip(reasons) {
        let read: Verdict = wire::decode(&meta(at), HELLO_META_MAX_BYTES).unwrap();
        assert_eq!(read.denied, denied);
    }
}
