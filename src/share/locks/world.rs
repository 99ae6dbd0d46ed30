//! A world of voters and holders with clocks of different speed, messages that come late, twice or never, and machines
//! that stop and start. It is checked after every step that a lock which is held alone is held by nobody else.

use std::collections::{BTreeMap, BTreeSet};

use super::poll::{Count, Hold, Poll, relied_on_ms};
use super::voter::Voter;
use crate::base::{Entropy, PeerId};
use crate::feeds::{LockMode, LockName, Vote, Want};
use crate::namespace::{VersionVector, WriterId};

pub(super) const LEASE_MS: u64 = 10_000;
pub(super) const NAME: LockName = LockName([1; 32]);
/// How long a holder waits for votes.
const PATIENCE_MS: u64 = 1_500;

pub(super) fn peer(number: usize) -> PeerId {
    PeerId([number as u8 + 1; 32])
}

fn writer(number: usize) -> WriterId {
    WriterId {
        peer: peer(number),
        incarnation: 0,
    }
}

#[derive(Clone, Debug)]
enum Said {
    Ask {
        attempt: u64,
        tag: u64,
        want: Want,
    },
    Vote {
        tag: u64,
        vote: Vote,
        released: VersionVector,
    },
    Release {
        attempt: u64,
        released: VersionVector,
    },
    Released {
        attempt: u64,
    },
}

#[derive(Clone, Debug)]
struct Message {
    at: u64,
    from: usize,
    to: usize,
    said: Said,
}

/// What a machine wants of the lock at the moment.
#[derive(Clone, Debug)]
enum Wish {
    Nothing {
        until: u64,
    },
    Asks {
        poll: Poll,
        attempt: u64,
        tag: u64,
        mode: LockMode,
        asked: u64,
        since: u64,
    },
    Waits {
        until: u64,
        mode: LockMode,
        since: u64,
    },
    Has {
        until: u64,
        renewal: Option<(Poll, u64, u64)>,
        renew_at: u64,
    },
    Leaves {
        told: BTreeSet<usize>,
        again: u64,
        renewal: Option<(Poll, u64, u64)>,
    },
}

pub(super) struct Machine {
    /// Its clock goes so many thousandths as fast as the true one.
    speed: u64,
    begun: u64,
    voter: Voter,
    /// What is on its disk.
    released: VersionVector,
    wish: Wish,
    hold: Option<Hold>,
    attempts: u64,
    is_up: bool,
    wakes: u64,
    /// What it wrote and merged.
    merged: VersionVector,
    written: u64,
}

pub(super) struct World {
    pub(super) now: u64,
    entropy: Entropy,
    voters: usize,
    pub(super) machines: Vec<Machine>,
    flying: Vec<Message>,
    /// Pairs that cannot talk, until then.
    cut: BTreeMap<(usize, usize), u64>,
    /// What the last who had it alone wrote.
    last: VersionVector,
    pub(super) loss: u64,
    tags: u64,
    pub(super) had: usize,
    pub(super) lost: usize,
    crashes: u64,
}

impl Machine {
    /// Its own clock, which begins anew with it.
    fn clock(&self, now: u64) -> u64 {
        (now - self.begun) * self.speed / 1000
    }

    pub(super) fn holds(&self, now: u64) -> Option<LockMode> {
        let clock = self.clock(now);
        // Who gives it back does nothing under it any more.
        let is_using = matches!(self.wish, Wish::Has { .. });
        let hold = self
            .hold
            .filter(|hold| self.is_up && is_using && hold.is_valid(clock, 0));
        hold.map(|hold| hold.mode)
    }
}

impl World {
    pub(super) fn new(seed: u64, machines: usize, voters: usize) -> World {
        let entropy = Entropy::seeded(seed);
        let all = (0..machines).map(|_| Machine {
            // A twentieth slower or faster: the margin allows a tenth between two.
            speed: 960 + entropy.below(80),
            begun: 0,
            voter: Voter::new(LEASE_MS, 0),
            released: VersionVector::default(),
            wish: Wish::Nothing {
                until: entropy.below(2000),
            },
            hold: None,
            attempts: 0,
            is_up: true,
            wakes: 0,
            merged: VersionVector::default(),
            written: 0,
        });
        World {
            now: 0,
            voters,
            machines: all.collect(),
            flying: Vec::new(),
            cut: BTreeMap::new(),
            last: VersionVector::default(),
            loss: entropy.below(200),
            tags: 0,
            had: 0,
            lost: 0,
            crashes: entropy.below(3),
            entropy,
        }
    }

    fn send(&mut self, from: usize, to: usize, said: Said) {
        let copies = 1 + u64::from(self.entropy.below(1000) < 30);
        for _ in 0..copies {
            if self.entropy.below(1000) < self.loss && from != to {
                continue;
            }
            let late = match self.entropy.below(100) {
                0 => self.entropy.below(15_000),
                _ => 1 + self.entropy.below(60),
            };
            let at = self.now + if from == to { 0 } else { late };
            let said = said.clone();
            self.flying.push(Message { at, from, to, said });
        }
    }

    /// Answers are known by the number that this returns.
    fn ask_all(&mut self, from: usize, attempt: u64, mode: LockMode, waited_ms: u64) -> u64 {
        self.tags += 1;
        let tag = self.tags;
        for to in 0..self.voters {
            let want = Want {
                name: NAME,
                mode,
                waited_ms,
            };
            self.send(from, to, Said::Ask { attempt, tag, want });
        }
        tag
    }

    fn deliver(&mut self, message: Message) {
        let Message { from, to, said, .. } = message;
        let is_cut =
            |pair: &(usize, usize)| self.cut.get(pair).is_some_and(|until| *until > self.now);
        if !self.machines[to].is_up || is_cut(&(from, to)) || is_cut(&(to, from)) {
            return;
        }
        let now = self.now;
        let machine = &mut self.machines[to];
        let clock = machine.clock(now);
        match said {
            Said::Ask { attempt, tag, want } => {
                let vote = machine.voter.ask(clock, peer(from), attempt, &[want])[0];
                let released = machine.released.clone();
                self.send(
                    to,
                    from,
                    Said::Vote {
                        tag,
                        vote,
                        released,
                    },
                );
            }
            Said::Release { attempt, released } => {
                machine.released.join(&released);
                machine.voter.release(clock, peer(from), attempt, &[NAME]);
                self.send(to, from, Said::Released { attempt });
            }
            Said::Vote {
                tag,
                vote,
                released,
            } => match &mut machine.wish {
                Wish::Asks {
                    poll, tag: asked, ..
                }
                | Wish::Has {
                    renewal: Some((poll, _, asked)),
                    ..
                }
                | Wish::Leaves {
                    renewal: Some((poll, _, asked)),
                    ..
                } if *asked == tag => {
                    poll.voted(peer(from), vote, &released);
                }
                _ => {}
            },
            Said::Released { attempt } => {
                if let Wish::Leaves { told, .. } = &mut machine.wish
                    && machine.hold.is_some_and(|hold| hold.attempt == attempt)
                {
                    told.insert(from);
                }
            }
        }
    }

    fn needed(&self) -> usize {
        self.voters / 2 + 1
    }

    fn act(&mut self, at: usize) {
        let now = self.now;
        let needed = self.needed();
        if !self.machines[at].is_up {
            if now >= self.machines[at].wakes {
                let machine = &mut self.machines[at];
                machine.is_up = true;
                machine.begun = now;
                machine.voter = Voter::new(LEASE_MS, 0);
                machine.wish = Wish::Nothing { until: now + 100 };
                machine.hold = None;
                // As the clock on the wall goes on.
                machine.attempts = now * 1024;
            }
            return;
        }
        let clock = self.machines[at].clock(now);
        let relied_on = relied_on_ms(LEASE_MS);
        if self.machines[at]
            .hold
            .is_some_and(|hold| !hold.is_valid(clock, 0))
        {
            self.machines[at].hold = None;
            self.machines[at].wish = Wish::Nothing { until: now + 500 };
            self.lost += 1;
        }
        let wish = self.machines[at].wish.clone();
        let next = match wish {
            Wish::Nothing { until } if now >= until => {
                let mode = match self.entropy.below(3) {
                    0 => LockMode::Shared,
                    _ => LockMode::Exclusive,
                };
                Some(self.begin(at, mode, now))
            }
            Wish::Waits { until, mode, since } if now >= until => Some(self.begin(at, mode, since)),
            Wish::Asks {
                poll,
                attempt,
                mode,
                asked,
                since,
                ..
            } => match poll.count() {
                Count::Won => {
                    let hold = Hold {
                        is_merged: true,
                        mode,
                        grant: attempt,
                        attempt,
                        until_ms: asked + relied_on,
                        until_wall_ms: u64::MAX,
                    };
                    let machine = &mut self.machines[at];
                    if hold.is_valid(clock, 0) {
                        machine.hold = Some(hold);
                        assert!(
                            poll.released().includes(&self.last),
                            "machine {at} does not know what was written before: {:?}, {:?}",
                            poll.released(),
                            self.last
                        );
                        machine.merged.join(poll.released());
                        self.had += 1;
                        let until = now + self.entropy.below(12_000);
                        Some(Wish::Has {
                            until,
                            renewal: None,
                            renew_at: now + 2500,
                        })
                    } else {
                        Some(Wish::Waits {
                            until: now + 100,
                            mode,
                            since,
                        })
                    }
                }
                Count::Open if clock < asked + PATIENCE_MS => None,
                _ => {
                    for to in (0..self.voters).filter(|to| !poll.is_against(&peer(*to))) {
                        let released = VersionVector::default();
                        self.send(at, to, Said::Release { attempt, released });
                    }
                    let until = now + 20 + self.entropy.below(150);
                    Some(Wish::Waits { until, mode, since })
                }
            },
            Wish::Has {
                until,
                renewal,
                renew_at,
            } => {
                let renewal = self.renewed(at, renewal);
                match (now >= until, self.machines[at].hold) {
                    (true, Some(hold)) => {
                        if hold.mode == LockMode::Exclusive {
                            let machine = &mut self.machines[at];
                            machine.written += 1;
                            machine.merged.raise(writer(at), machine.written);
                        }
                        Some(Wish::Leaves {
                            told: BTreeSet::new(),
                            again: now,
                            renewal,
                        })
                    }
                    (false, Some(hold)) if now >= renew_at => {
                        let poll = Poll::new(self.voters, needed);
                        let tag = self.ask_all(at, hold.attempt, hold.mode, 0);
                        let renewal = Some((poll, clock, tag));
                        Some(Wish::Has {
                            until,
                            renewal,
                            renew_at: now + 2500,
                        })
                    }
                    _ => Some(Wish::Has {
                        until,
                        renewal,
                        renew_at,
                    }),
                }
            }
            Wish::Leaves {
                told,
                again,
                renewal,
            } => {
                let renewal = self.renewed(at, renewal);
                if told.len() >= needed {
                    let machine = &self.machines[at];
                    if machine
                        .hold
                        .is_some_and(|hold| hold.mode == LockMode::Exclusive)
                    {
                        self.last.raise(writer(at), machine.written);
                    }
                    self.machines[at].hold = None;
                    Some(Wish::Nothing {
                        until: now + self.entropy.below(3000),
                    })
                } else if now >= again {
                    let machine = &self.machines[at];
                    let attempt = machine.hold.map_or(0, |hold| hold.attempt);
                    let mut released = VersionVector::default();
                    released.raise(writer(at), machine.written);
                    for to in 0..self.voters {
                        let released = released.clone();
                        self.send(at, to, Said::Release { attempt, released });
                    }
                    Some(Wish::Leaves {
                        told,
                        again: now + 300,
                        renewal,
                    })
                } else {
                    Some(Wish::Leaves {
                        told,
                        again,
                        renewal,
                    })
                }
            }
            _ => None,
        };
        if let Some(next) = next {
            self.machines[at].wish = next;
        }
    }

    fn begin(&mut self, at: usize, mode: LockMode, since: u64) -> Wish {
        let machine = &mut self.machines[at];
        machine.attempts += 1;
        let (attempt, asked) = (machine.attempts, machine.clock(self.now));
        let tag = self.ask_all(at, attempt, mode, self.now - since);
        let poll = Poll::new(self.voters, self.needed());
        Wish::Asks {
            poll,
            attempt,
            tag,
            mode,
            asked,
            since,
        }
    }

    /// Enough votes to go on.
    fn renewed(
        &mut self,
        at: usize,
        renewal: Option<(Poll, u64, u64)>,
    ) -> Option<(Poll, u64, u64)> {
        let (poll, asked, tag) = renewal?;
        if poll.count() == Count::Won
            && let Some(hold) = &mut self.machines[at].hold
        {
            hold.until_ms = hold.until_ms.max(asked + relied_on_ms(LEASE_MS));
            return None;
        }
        Some((poll, asked, tag))
    }

    pub(super) fn mischief(&mut self) {
        if self.entropy.below(400) == 0 {
            let count = self.machines.len() as u64;
            let (one, two) = (
                self.entropy.below(count) as usize,
                self.entropy.below(count) as usize,
            );
            let until = self.now + self.entropy.below(25_000);
            self.cut.insert((one, two), until);
        }
        if self.crashes > 0 && self.entropy.below(1500) == 0 {
            let at = self.entropy.below(self.machines.len() as u64) as usize;
            let away = self.entropy.below(20_000);
            let machine = &mut self.machines[at];
            machine.is_up = false;
            machine.wakes = self.now + away;
            machine.hold = None;
        }
    }

    fn check(&self) {
        let holders = self.machines.iter().map(|machine| machine.holds(self.now));
        let modes: Vec<LockMode> = holders.flatten().collect();
        let is_alone = modes.contains(&LockMode::Exclusive);
        assert!(!is_alone || modes.len() == 1, "{modes:?} at {}", self.now);
    }

    pub(super) fn step(&mut self) {
        self.now += 10;
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|message: &Message| message.at <= now);
        self.flying = later;
        let mut due: Vec<Message> = due;
        due.sort_by_key(|message| message.at);
        for message in due {
            self.deliver(message);
        }
        for at in 0..self.machines.len() {
            self.act(at);
            self.check();
        }
    }
}
