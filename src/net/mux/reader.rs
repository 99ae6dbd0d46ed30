//! The reading task of a link: takes frames in and hands on what they carry.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;

use super::LinkEnd;
use super::input::Input;
use super::state::{ServeError, Served, Shared};
use crate::net::budget::{PayloadBuffer, Reservation};
use crate::net::codec::{self, Header, INLINE_MAX_BYTES, Kind};
use crate::net::command::{Inbound, NetError};
use crate::net::message::{Refusal, Request, Response};

/// How long a payload may wait for memory before its request is answered `Busy`.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// Control parts up to this need no room set aside: as many as a peer may have under way are few bytes.
const META_FREE_BYTES: usize = 16 << 10;

/// A payload of which more is to come.
struct Partial {
    header: Header,
    missing: usize,
    aim: Aim,
}

/// What becomes of a message once its payload is there.
enum Aim {
    /// A request to serve.
    Request(Served, Bytes, PayloadBuffer),
    /// A response that is awaited.
    Response(Bytes, PayloadBuffer),
    /// Nobody wants it.
    Nothing,
}

/// Reads until the peer closes (`Ok`), breaks the protocol or the connection.
pub(super) async fn read_loop<R>(shared: Arc<Shared>, transport: R) -> Result<(), LinkEnd>
where
    R: AsyncRead + Unpin,
{
    let mut reader = Reader {
        input: Input::new(transport, Arc::clone(&shared)),
        shared,
        partial: None,
    };
    while let Some(header) = reader.input.header().await? {
        reader.frame(header).await?;
    }
    match reader.partial {
        None => Ok(()),
        Some(_) => Err(LinkEnd::Lost("it ended in the middle of a payload".into())),
    }
}

struct Reader<R> {
    input: Input<R>,
    shared: Arc<Shared>,
    partial: Option<Partial>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn frame(&mut self, header: Header) -> Result<(), LinkEnd> {
        match header.kind {
            Kind::Request | Kind::Response => return self.message(header).await,
            Kind::Data => return self.segment(header).await,
            Kind::Cancel => self.shared.cancelled(header.id),
            Kind::Ping => self.shared.push_pong(header.id),
            Kind::Pong => self.shared.pong(header.id),
            Kind::Goodbye => self.shared.hear_goodbye(),
            Kind::Hello => return Err(protocol("a greeting on an admitted connection")),
            Kind::Unknown(_) => {
                let rest = header.meta_len as usize + header.payload_len as usize;
                return self.input.skip(rest).await;
            }
        }
        Ok(())
    }

    async fn message(&mut self, header: Header) -> Result<(), LinkEnd> {
        let len = header.payload_len as usize;
        let mut aim = match header.kind {
            Kind::Request => self.aim_request(&header).await?,
            _ => self.aim_response(&header).await?,
        };
        if len <= INLINE_MAX_BYTES {
            self.take_in(&mut aim, len).await?;
            self.done(&header, aim);
        } else if self.partial.is_some() {
            return Err(protocol("two payloads at a time"));
        } else {
            let missing = len;
            self.shared.receiving.store(true, Ordering::Relaxed);
            self.partial = Some(Partial {
                header,
                missing,
                aim,
            });
        }
        Ok(())
    }

    async fn segment(&mut self, header: Header) -> Result<(), LinkEnd> {
        let mut partial = self
            .partial
            .take()
            .ok_or_else(|| protocol("a segment of nothing"))?;
        let len = header.payload_len as usize;
        if header.id != partial.header.id || len == 0 || len > partial.missing {
            return Err(protocol("a segment that does not fit its payload"));
        }
        self.take_in(&mut partial.aim, len).await?;
        partial.missing -= len;
        if partial.missing == 0 {
            self.shared.receiving.store(false, Ordering::Relaxed);
            self.done(&partial.header, partial.aim);
        } else {
            self.partial = Some(partial);
        }
        Ok(())
    }

    async fn take_in(&mut self, aim: &mut Aim, len: usize) -> Result<(), LinkEnd> {
        match aim {
            Aim::Request(_, _, store) | Aim::Response(_, store) => {
                self.input.straight(store, len).await
            }
            Aim::Nothing => self.input.skip(len).await,
        }
    }

    /// Decides about a request before what is large of it is read.
    async fn aim_request(&mut self, header: &Header) -> Result<Aim, LinkEnd> {
        let id = header.id;
        let (meta_len, len) = (header.meta_len as usize, header.payload_len as usize);
        let mut served = match self.shared.serve(id) {
            Ok(served) => served,
            Err(ServeError::Duplicate) => return Err(protocol("two requests of one id")),
            Err(ServeError::TooMany) => return self.turn_away(header).await,
        };
        let takes_payload = len > 0 && codec::request_has_payload(header.opcode);
        let large_meta = if meta_len > META_FREE_BYTES {
            meta_len
        } else {
            0
        };
        let needed = large_meta + if takes_payload { len } else { 0 };
        let mut room = None;
        if needed > 0 {
            room = room_for(&self.shared, needed).await;
            if room.is_none() {
                return self.turn_away(header).await;
            }
        }
        // Until the answer is there; the payload's until that is dropped.
        served.answer.room = room.as_mut().map(|room| room.split(large_meta));
        let meta = self.input.small(meta_len).await?;
        if len == 0 {
            return Ok(Aim::Request(served, meta, self.buffer(0, None)));
        }
        if !takes_payload {
            // Known requests without payload are refused as such; others are unknown.
            let answer = match codec::decode_request(header.opcode, &meta, Bytes::new()) {
                Ok(Request::Unknown { .. }) => Response::Unsupported,
                _ => invalid(),
            };
            self.shared.answer_now(id, &answer);
            return Ok(Aim::Nothing);
        }
        Ok(Aim::Request(served, meta, self.buffer(len, room)))
    }

    /// Another time: nothing of the request is kept.
    async fn turn_away(&mut self, header: &Header) -> Result<Aim, LinkEnd> {
        self.shared.answer_now(header.id, &Response::Busy);
        self.input.skip(header.meta_len as usize).await?;
        Ok(Aim::Nothing)
    }

    /// Memory for a payload, exactly as large as announced.
    fn buffer(&self, len: usize, reservation: Option<Reservation>) -> PayloadBuffer {
        self.shared.context.budget.buffer(len, reservation)
    }

    /// Who asks bounds by itself what comes; what nobody asked for is not kept.
    async fn aim_response(&mut self, header: &Header) -> Result<Aim, LinkEnd> {
        let (meta_len, len) = (header.meta_len as usize, header.payload_len as usize);
        if !self.shared.is_awaited(header.id) {
            self.input.skip(meta_len).await?;
            return Ok(Aim::Nothing);
        }
        let meta = self.input.small(meta_len).await?;
        if len == 0 || self.shared.expects_payload(header.id) {
            return Ok(Aim::Response(meta, self.buffer(len, None)));
        }
        // Also when nobody waits any more: then this is lost on nobody.
        let nonsense = NetError::Protocol(self.shared.peer, "a payload nobody asked for".into());
        self.shared.answered(header.id, Err(nonsense));
        Ok(Aim::Nothing)
    }

    fn done(&self, header: &Header, aim: Aim) {
        match aim {
            Aim::Request(served, meta, store) => self.serve(header, served, &meta, store.freeze()),
            Aim::Response(meta, store) => {
                let outcome = codec::decode_response(header.opcode, &meta, store.freeze())
                    .map_err(|error| NetError::Protocol(self.shared.peer, error.to_string()));
                self.shared.answered(header.id, outcome);
            }
            Aim::Nothing => {}
        }
    }

    fn serve(&self, header: &Header, served: Served, meta: &[u8], payload: Bytes) {
        let request = match codec::decode_request(header.opcode, meta, payload) {
            Ok(Request::Unknown { .. }) => {
                return self.shared.answer_now(header.id, &Response::Unsupported);
            }
            Ok(request) => request,
            Err(_) => return self.shared.answer_now(header.id, &invalid()),
        };
        let inbound = Inbound {
            from: self.shared.peer,
            request,
            reply: served.reply,
        };
        match self.shared.context.inbound.try_send(inbound) {
            Ok(()) => self.shared.await_answer(served.answer),
            Err(_) => self.shared.answer_now(header.id, &Response::Busy),
        }
    }
}

/// Room for so much of what this peer sends, if there is soon.
async fn room_for(shared: &Shared, bytes: usize) -> Option<Reservation> {
    shared.holding_back.store(true, Ordering::Relaxed);
    let room = shared.context.budget.reserve(shared.peer, bytes);
    let room = tokio::time::timeout(ROOM_PATIENCE, room).await;
    shared.holding_back.store(false, Ordering::Relaxed);
    room.ok()
}

fn invalid() -> Response {
    Response::Refused {
        reason: Refusal::Invalid,
        free_bytes: 0,
    }
}

fn protocol(what: &str) -> LinkEnd {
    LinkEnd::Protocol(what.to_owned())
}
