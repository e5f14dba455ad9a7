use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response,
    body::{Body, Frame},
};

/// What a forward function makes of a request. The later ones are misbehaviour, for the miners that tests are made of.
#[derive(Debug)]
pub enum Reply {
    /// Status 200 with this completion.
    Completion(String),
    /// A refusal or failure in the SDK's form.
    Status {
        /// 400 to 599.
        code: u16,
        /// The words.
        message: String,
    },
    /// Any reply at all, sent as it is: a redirect, odd headers, a body that is no synapse.
    Raw(Response<Bytes>),
    /// Status 200 and a body without end.
    Endless,
    /// Nothing, for as long as the dendrite waits.
    Never,
    /// The connection is closed without a reply.
    HangUp,
}

/// The body of any [`Reply`].
pub(super) type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A body without end.
struct Endless;

/// What an [`Endless`] body repeats.
static FILLER: [u8; 16_384] = [b'a'; 16_384];

pub(super) fn whole(bytes: impl Into<Bytes>) -> ReplyBody {
    Full::new(bytes.into()).boxed_unsync()
}

pub(super) fn endless() -> ReplyBody {
    Endless.boxed_unsync()
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILLER)))))
    }
}
