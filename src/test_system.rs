//! A system that refuses single calls, for tests of what then happens: no disk has to break for it, and no
//! root is needed.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Which of the calls of one number.
#[allow(dead_code, reason = "it is part of two sets of tests, and each uses some")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// All.
    All,
    /// Those that have these bits in the argument of this index.
    Bits(u8, u32),
    /// Those whose argument of this index is at least this.
    AtLeast(u8, u64),
}

/// From now on, and for ever, these calls of this thread fail, and of the threads and programs that it starts.
pub(crate) fn refuse(call: i64, which: Which, errno: i32) {
    let condition = |argument, size, operator, value| {
        SeccompCondition::new(argument, size, operator, value).unwrap()
    };
    let rules = match which {
        Which::All => vec![],
        Which::Bits(argument, bits) => {
            let bits = u64::from(bits);
            let operator = SeccompCmpOp::MaskedEq(bits);
            vec![condition(argument, SeccompCmpArgLen::Dword, operator, bits)]
        }
        Which::AtLeast(argument, least) => {
            vec![condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Ge, least)]
        }
    };
    let rules = match rules.is_empty() {
        true => vec![],
        false => vec![SeccompRule::new(rules).unwrap()],
    };
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}
