//! Work that ends with its caller.

use actix::{
    Actor, Message,
    dev::{MessageResponse, OneshotSender},
};
use futures::{FutureExt, future::LocalBoxFuture};

use crate::Place;

/// A handler's answer that is worked at only while someone waits for it: when the caller goes, the work is dropped,
/// wherever it is, and its place is free. With `actix::ResponseFuture` the work would go on to its end for nobody.
///
/// For work that changes nothing, or that may stop at any await. Like `ResponseFuture` it runs beside other messages, as
/// many as the inbox has places.
#[must_use = "it works only when a handler returns it"]
pub struct WhileAwaited<T>(LocalBoxFuture<'static, T>);

// === impl WhileAwaited ===

impl<T: 'static> WhileAwaited<T> {
    /// Keeps `place` until `work` ends or is dropped.
    pub fn new(place: Place, work: impl Future<Output = T> + 'static) -> Self {
        Self(async move { (work.await, place).0 }.boxed_local())
    }
}

impl<A, M> MessageResponse<A, M> for WhileAwaited<M::Result>
where
    A: Actor,
    M: Message,
{
    fn handle(self, _: &mut A::Context, reply: Option<OneshotSender<M::Result>>) {
        let Some(mut reply) = reply else { return };
        actix::spawn(async move {
            tokio::select! {
                // Whoever has gone is noticed before any more work is done.
                biased;
                () = reply.closed() => {}
                answer = self.0 => drop(reply.send(answer)),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use actix::{Context, Handler};
    use prometheus::Registry;

    use super::*;
    use crate::{Envelope, Inbox, Mailbox};

    /// Answers 7 to `true`; works at `false` for ever.
    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Ask(bool);

    /// Counts what is being worked at.
    struct Worker(Rc<Cell<usize>>);

    struct Working(Rc<Cell<usize>>);

    impl Drop for Working {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    impl Actor for Worker {
        type Context = Context<Self>;
    }

    impl Handler<Envelope<Ask>> for Worker {
        type Result = WhileAwaited<u8>;

        fn handle(&mut self, envelope: Envelope<Ask>, _: &mut Self::Context) -> Self::Result {
            let (Ask(answers), place) = envelope.open();
            let count = self.0.clone();
            WhileAwaited::new(place, async move {
                count.set(count.get() + 1);
                let _working = Working(count);
                if answers { 7 } else { std::future::pending().await }
            })
        }
    }

    fn worker(places: usize) -> (Inbox, Mailbox<Ask>, Rc<Cell<usize>>) {
        let inbox = Inbox::new("worker", places, &Registry::new()).unwrap();
        let (mailbox, working) = (inbox.mailbox(), Rc::new(Cell::new(0)));
        mailbox.attach(&Worker(working.clone()).start());
        (inbox, mailbox, working)
    }

    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("it did not come to pass");
    }

    #[actix::test]
    async fn work_ends_with_its_caller_and_frees_its_place() {
        let (inbox, mailbox, working) = worker(2);
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let mailbox = mailbox.clone();
                actix::spawn(async move { mailbox.call(Ask(false)).await })
            })
            .collect();
        until(|| working.get() == 2).await;
        assert_eq!(inbox.health().depth, 2, "both places are taken");
        calls[0].abort();
        until(|| working.get() == 1).await;
        assert_eq!(mailbox.call(Ask(true)).await, Ok(7), "one place is free; the other work goes on");
        calls[1].abort();
        until(|| working.get() == 0 && inbox.health().depth == 0).await;
    }
}
