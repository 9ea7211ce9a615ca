//! When a runner that Gitea says it does not know is dead, and when it is Gitea that is to be doubted.
//!
//! One runner alone was deleted there, once a minute has passed or the REST API says so too. Where several
//! are lost at once, it is likelier that Gitea was restored from a backup, or is another one: then none of
//! them is given up, whatever anybody says.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::RecordId;

/// What is to be done about a lost runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept until more is known.
    Wait,
    /// It is kept, because Gitea is in doubt.
    Doubt,
    /// It is dead.
    Dead,
}

/// The runners that are lost at the moment.
#[derive(Debug, Default)]
pub struct Lost {
    runners: HashMap<RecordId, One>,
    /// The doubt was told.
    told: bool,
}

#[derive(Debug)]
struct One {
    /// When Gitea first said that it does not know it.
    since: Instant,
    /// The REST API says so too.
    absent: bool,
    /// When the REST API was last asked.
    asked: Option<Instant>,
}

impl One {
    fn new(since: Instant) -> Self {
        Self { since, absent: false, asked: None }
    }
}

impl Lost {
    /// Gitea says that it does not know this runner. One that is lost already goes on being so.
    pub fn add(&mut self, id: RecordId, now: Instant) {
        self.runners.entry(id).or_insert_with(|| One::new(now));
    }

    /// It is lost no more: it was found, or its record has ended. For one that is left alone after a doubt,
    /// all starts anew.
    pub fn remove(&mut self, id: RecordId, now: Instant) {
        if self.runners.remove(&id).is_some() && !self.is_in_doubt() {
            self.told = false;
            for left in self.runners.values_mut() {
                *left = One::new(now);
            }
        }
    }

    /// Whether so many are lost that Gitea is in doubt.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.runners.len() > 1
    }

    /// Whether the doubt is to be told: once, until it is over.
    pub fn doubt_is_news(&mut self) -> bool {
        self.is_in_doubt() && !std::mem::replace(&mut self.told, true)
    }

    /// Whether the REST API is to be asked now: once in `every` at most, and not while Gitea is in doubt, when
    /// nothing hangs on its answer and many would ask. It counts as asked from here on.
    pub fn asks(&mut self, id: RecordId, now: Instant, every: Duration) -> bool {
        if self.is_in_doubt() {
            return false;
        }
        let Some(one) = self.runners.get_mut(&id) else { return false };
        let due = one.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= every);
        if due {
            one.asked = Some(now);
        }
        due
    }

    /// The REST API, which answers to the API token, has no runner of this id.
    pub fn absent(&mut self, id: RecordId) {
        if let Some(one) = self.runners.get_mut(&id) {
            one.absent = true;
        }
    }

    /// What is to be done, where one that is lost alone is given `patience`.
    #[must_use]
    pub fn verdict(&self, id: RecordId, now: Instant, patience: Duration) -> Verdict {
        match self.runners.get(&id) {
            None => Verdict::Wait,
            Some(_) if self.is_in_doubt() => Verdict::Doubt,
            Some(one) if one.absent || now.saturating_duration_since(one.since) >= patience => {
                Verdict::Dead
            }
            Some(_) => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const A: RecordId = RecordId(1);
    const B: RecordId = RecordId(2);

    #[test]
    fn one_alone_is_dead_after_its_time() {
        let start = Instant::now();
        let mut lost = Lost::default();
        lost.add(A, start);
        lost.add(A, start + MINUTE / 2);
        assert_eq!(lost.verdict(A, start + MINUTE - MINUTE / 60, MINUTE), Verdict::Wait);
        assert_eq!(lost.verdict(A, start + MINUTE, MINUTE), Verdict::Dead);
        assert_eq!(lost.verdict(B, start + MINUTE, MINUTE), Verdict::Wait, "it is not lost");
    }

    #[test]
    fn one_alone_is_dead_at_once_where_rest_says_so() {
        let start = Instant::now();
        let mut lost = Lost::default();
        lost.add(A, start);
        lost.absent(A);
        lost.absent(B);
        assert_eq!(lost.verdict(A, start, MINUTE), Verdict::Dead);
        lost.add(B, start);
        assert_eq!(lost.verdict(A, start, MINUTE), Verdict::Doubt);
        assert_eq!(lost.verdict(B, start, MINUTE), Verdict::Doubt);
    }

    #[test]
    fn a_doubt_is_told_once_and_leaves_nothing_behind() {
        let start = Instant::now();
        let mut lost = Lost::default();
        lost.add(A, start);
        assert!(!lost.doubt_is_news());
        lost.add(B, start);
        lost.absent(A);
        assert!(lost.doubt_is_news());
        assert!(!lost.doubt_is_news());
        let later = start + 10 * MINUTE;
        lost.remove(B, later);
        assert_eq!(lost.verdict(A, later, MINUTE), Verdict::Wait);
        assert_eq!(lost.verdict(A, later + MINUTE, MINUTE), Verdict::Dead);
        lost.add(B, later);
        assert!(lost.doubt_is_news(), "it is another doubt");
    }

    #[test]
    fn rest_is_asked_now_and_then() {
        let start = Instant::now();
        let every = Duration::from_secs(10);
        let mut lost = Lost::default();
        assert!(!lost.asks(A, start, every));
        lost.add(A, start);
        assert!(lost.asks(A, start, every));
        assert!(!lost.asks(A, start + every / 2, every));
        assert!(lost.asks(A, start + every, every));
        lost.add(B, start);
        assert!(!lost.asks(A, start + 9 * every, every), "Gitea is in doubt");
        assert!(!lost.asks(B, start + 9 * every, every));
        lost.remove(B, start);
        assert!(lost.asks(A, start + 9 * every, every));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(i64),
        Remove(i64),
        Absent(i64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 0..4_i64;
        prop_oneof![
            id.clone().prop_map(Step::Add),
            id.clone().prop_map(Step::Remove),
            id.prop_map(Step::Absent),
            (0..90_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nobody_dies_of_a_doubt_or_before_the_time(steps in prop::collection::vec(step(), 0..60)) {
            let mut now = Instant::now();
            let mut lost = Lost::default();
            // Who is lost: since when, and whether the REST API said so since.
            let mut model: BTreeMap<i64, (Instant, bool)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Add(id) => {
                        lost.add(RecordId(id), now);
                        model.entry(id).or_insert((now, false));
                    }
                    Step::Remove(id) => {
                        lost.remove(RecordId(id), now);
                        model.remove(&id);
                    }
                    Step::Absent(id) => {
                        lost.absent(RecordId(id));
                        model.entry(id).and_modify(|one| one.1 = true);
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                }
                for id in 0..4 {
                    let verdict = lost.verdict(RecordId(id), now, MINUTE);
                    match model.get(&id) {
                        None => prop_assert_eq!(verdict, Verdict::Wait),
                        Some(_) if model.len() > 1 => prop_assert_eq!(verdict, Verdict::Doubt),
                        Some((since, absent)) if verdict == Verdict::Dead => {
                            prop_assert!(*absent || now - *since >= MINUTE);
                        }
                        Some(_) => {
                            // It ends all the same.
                            prop_assert_eq!(lost.verdict(RecordId(id), now + MINUTE, MINUTE), Verdict::Dead);
                        }
                    }
                }
            }
        }
    }
}
