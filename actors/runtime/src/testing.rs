//! For tests: a mailbox that records what it is sent and answers from a closure; [`spoil`] for what reads bytes from outside.

use std::{cell::RefCell, rc::Rc};

use actix::{Actor, Context, Handler, Message};
use prometheus::Registry;

use crate::{Envelope, Inbox, Mailbox};

mod spoil;

pub use spoil::spoil;

/// Places in a recording mailbox: more than any test sends at once.
const CAPACITY: usize = 64;

/// What a recording mailbox was sent. It lives on the thread that made it.
pub struct Recording<M>(Rc<RefCell<Vec<M>>>);

/// What a recording mailbox answers with.
type Reply<M> = Box<dyn FnMut(&M) -> <M as Message>::Result>;

struct Recorder<M: Message> {
    seen: Rc<RefCell<Vec<M>>>,
    reply: Reply<M>,
}

/// A mailbox whose messages are kept, each answered by `reply`. Call it inside `#[actix::test]`.
///
/// # Panics
/// Never: its registry is its own.
pub fn recording_mailbox<M>(reply: impl FnMut(&M) -> M::Result + 'static) -> (Mailbox<M>, Recording<M>)
where
    M: Message + Send + Unpin + 'static,
    M::Result: Send,
{
    #[allow(clippy::expect_used, reason = "a fresh registry holds no name twice")]
    let inbox = Inbox::new("recording", CAPACITY, &Registry::new()).expect("a fresh registry");
    let mailbox = inbox.mailbox();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let recorder = Recorder { seen: seen.clone(), reply: Box::new(reply) };
    mailbox.attach(&recorder.start());
    (mailbox, Recording(seen))
}

impl<M> Recording<M> {
    /// Everything sent so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<M>
    where
        M: Clone,
    {
        self.0.borrow().clone()
    }

    /// How many messages were sent so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether nothing was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl<M: Message + Unpin + 'static> Actor for Recorder<M> {
    type Context = Context<Self>;
}

impl<M> Handler<Envelope<M>> for Recorder<M>
where
    M: Message + Unpin + 'static,
    M::Result: Send,
{
    type Result = actix::MessageResult<Envelope<M>>;

    fn handle(&mut self, envelope: Envelope<M>, _: &mut Self::Context) -> Self::Result {
        let (message, _place) = envelope.open();
        let answer = (self.reply)(&message);
        self.seen.borrow_mut().push(message);
        actix::MessageResult(answer)
    }
}
