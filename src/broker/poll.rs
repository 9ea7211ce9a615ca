//! Which polls for tasks overlapped one that took a task.
//!
//! Gitea finds a waiting job and takes it in two steps. Of two polls that find the same one, the second gets
//! nothing, though another job may wait, and with it the version at which Gitea looks for nothing more. That
//! can only be where Gitea worked on both at once, so their spans, from the request to the answer, overlap.

/// The polls on their way to one Gitea, and those of its answers that wait for the others. `W` wakes whoever
/// holds such an answer back.
#[derive(Debug)]
pub struct Polls<W> {
    /// Counts the requests and the answers.
    clock: u64,
    /// How many polls are on their way.
    flying: usize,
    /// When the last one ended that took a task.
    took: u64,
    waiting: Vec<Waiting<W>>,
}

/// A poll on its way, which ends once.
#[derive(Debug)]
pub struct Sent(u64);

/// What is known of a poll without a task as its answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// No poll that overlapped it took a task.
    Free,
    /// One did.
    Taken,
    /// Polls that overlap it are still on their way, and will tell.
    Open,
}

/// An answer that is held back.
#[derive(Debug)]
struct Waiting<W> {
    /// When it came.
    came: u64,
    /// How many of the polls that were on their way then still are; never zero.
    left: usize,
    waker: W,
}

impl<W> Default for Polls<W> {
    fn default() -> Self {
        Self { clock: 0, flying: 0, took: 0, waiting: Vec::new() }
    }
}

impl<W> Polls<W> {
    /// A poll goes out. To be called before a byte of it does.
    #[must_use]
    pub fn send(&mut self) -> Sent {
        self.clock += 1;
        self.flying += 1;
        Sent(self.clock)
    }

    /// A poll ended, and nothing more is asked of it. It counts as one that took a task also where it only
    /// may have. Tells those whose wait is over by that whether a poll that overlapped theirs took a task.
    pub fn end(&mut self, sent: Sent, took: bool, mut tell: impl FnMut(W, bool)) {
        self.clock += 1;
        self.flying -= 1;
        if took {
            self.took = self.clock;
        }
        let is_over = |waiting: &mut Waiting<W>| {
            let overlaps = sent.0 < waiting.came;
            if overlaps {
                waiting.left -= 1;
            }
            overlaps && (took || waiting.left == 0)
        };
        for waiting in self.waiting.extract_if(.., is_over) {
            tell(waiting.waker, took);
        }
    }

    /// A poll ended without a task, though Gitea looked for one. Where that leaves it open whether another
    /// one took it, `waker` is called for, and told later.
    pub fn end_empty(
        &mut self,
        sent: Sent,
        tell: impl FnMut(W, bool),
        waker: impl FnOnce() -> W,
    ) -> Overlap {
        let begun = sent.0;
        self.end(sent, false, tell);
        if self.took > begun {
            return Overlap::Taken;
        }
        if self.flying == 0 {
            return Overlap::Free;
        }
        self.waiting.push(Waiting { came: self.clock, left: self.flying, waker: waker() });
        Overlap::Open
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Polls whose wakers are names; what they are told is kept.
    #[derive(Default)]
    struct Told {
        polls: Polls<usize>,
        told: BTreeMap<usize, bool>,
    }

    impl Told {
        fn end(&mut self, sent: Sent, took: bool) {
            self.polls
                .end(sent, took, |name, taken| assert!(self.told.insert(name, taken).is_none()));
        }

        fn end_empty(&mut self, name: usize, sent: Sent) -> Overlap {
            let told = &mut self.told;
            let tell = |name, taken| assert!(told.insert(name, taken).is_none());
            self.polls.end_empty(sent, tell, || name)
        }
    }

    #[test]
    fn a_poll_alone_overlaps_none() {
        let mut polls = Told::default();
        for _ in 0..2 {
            let winner = polls.polls.send();
            polls.end(winner, true);
            let alone = polls.polls.send();
            assert_eq!(polls.end_empty(0, alone), Overlap::Free);
        }
    }

    #[test]
    fn a_task_that_was_taken_before_the_answer_is_known_at_once() {
        let mut polls = Told::default();
        let (loser, winner) = (polls.polls.send(), polls.polls.send());
        let other = polls.polls.send();
        polls.end(winner, true);
        assert_eq!(polls.end_empty(0, loser), Overlap::Taken);
        polls.end(other, false);
        assert!(polls.told.is_empty());
    }

    #[test]
    fn a_task_that_is_taken_after_the_answer_is_waited_for() {
        let mut polls = Told::default();
        let [loser, empty, winner, last] = [(); 4].map(|()| polls.polls.send());
        assert_eq!(polls.end_empty(0, loser), Overlap::Open);
        polls.end(empty, false);
        assert!(polls.told.is_empty());
        polls.end(winner, true);
        assert_eq!(polls.told, [(0, true)].into());
        polls.end(last, true);
    }

    #[test]
    fn the_wait_ends_with_the_last_that_overlapped() {
        let mut polls = Told::default();
        let (loser, other) = (polls.polls.send(), polls.polls.send());
        assert_eq!(polls.end_empty(0, loser), Overlap::Open);
        let later = polls.polls.send();
        polls.end(later, true);
        assert!(polls.told.is_empty(), "it began after the answer");
        polls.end(other, false);
        assert_eq!(polls.told, [(0, false)].into());
    }

    #[test]
    fn two_that_wait_do_not_wait_for_each_other() {
        let mut polls = Told::default();
        let [one, two, winner] = [(); 3].map(|()| polls.polls.send());
        assert_eq!(polls.end_empty(1, one), Overlap::Open);
        assert_eq!(polls.end_empty(2, two), Overlap::Open);
        polls.end(winner, true);
        assert_eq!(polls.told, [(1, true), (2, true)].into());
        assert!(polls.polls.waiting.is_empty());
    }

    /// A step of a schedule: a poll goes out, or one of those on their way ends.
    #[derive(Clone, Debug)]
    enum Step {
        Send,
        End(prop::sample::Index, End),
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Took,
        Empty,
        /// Without a task, and Gitea did not look.
        Idle,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let end = prop_oneof![1 => Just(End::Took), 3 => Just(End::Empty), 1 => Just(End::Idle)];
        prop_oneof![
            Just(Step::Send),
            (any::<prop::sample::Index>(), end).prop_map(|(which, end)| Step::End(which, end))
        ]
    }

    /// All of one poll, for the model.
    struct Span {
        begun: usize,
        ended: Option<(usize, End)>,
    }

    /// What the model says after `now` steps: whether a poll that overlapped this one took a task; `None`:
    /// that is open.
    fn model(spans: &[Span], which: usize) -> Option<bool> {
        let (came, _) = spans[which].ended?;
        let mut others = spans
            .iter()
            .enumerate()
            .filter(|(other, span)| *other != which && span.begun < came)
            .map(|(_, span)| span.ended)
            .filter(|ended| ended.is_none_or(|(at, _)| at > spans[which].begun));
        let mut open = false;
        if others.any(|ended| {
            open |= ended.is_none();
            ended.is_some_and(|(_, end)| end == End::Took)
        }) {
            return Some(true);
        }
        (!open).then_some(false)
    }

    proptest! {
        #[test]
        fn every_schedule_is_told_as_the_spans_are(steps in proptest::collection::vec(any_step(), 0..60)) {
            let mut polls = Told::default();
            let mut flying: Vec<(usize, Sent)> = Vec::new();
            let mut spans: Vec<Span> = Vec::new();
            let mut asked: BTreeMap<usize, Overlap> = BTreeMap::new();
            for (now, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Send => {
                        flying.push((spans.len(), polls.polls.send()));
                        spans.push(Span { begun: now, ended: None });
                    }
                    Step::End(..) if flying.is_empty() => {}
                    Step::End(which, end) => {
                        let (name, sent) = flying.remove(which.index(flying.len()));
                        spans[name].ended = Some((now, end));
                        match end {
                            End::Empty => {
                                asked.insert(name, polls.end_empty(name, sent));
                            }
                            End::Took | End::Idle => polls.end(sent, end == End::Took),
                        }
                    }
                }
                // Each is told as soon as it can be, and no sooner.
                for (name, overlap) in &asked {
                    let known = match overlap {
                        Overlap::Free => Some(false),
                        Overlap::Taken => Some(true),
                        Overlap::Open => polls.told.get(name).copied(),
                    };
                    prop_assert_eq!(known, model(&spans, *name), "poll {}", name);
                }
            }
            for (_, sent) in flying {
                polls.end(sent, false);
            }
            prop_assert!(polls.polls.waiting.is_empty());
            prop_assert_eq!(polls.polls.flying, 0);
        }
    }
}
