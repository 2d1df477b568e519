//! Flows that tell the same story, put together, so that 100,000 of them still give a page.

use super::assemble::Assembler;
use hashbrown::HashMap;

/// Flows that differ in nothing but their client: same service, same real server, same way, same end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub count: u32,
    /// The first one's number.
    pub first: u32,
    /// Nothing went wrong: complete, no resets, no ICMP errors.
    pub plain: bool,
    /// Numbers of those among [`super::Trace::flows`].
    pub examples: Vec<u32>,
}

/// So many flows are fetched from memory together.
const TOGETHER: u32 = 32;
/// So many flows are all put together; of more, only examples of each group.
const FEW: usize = 256;
/// Examples of each group then: of one in which all went well, of another one, and of all groups together.
const PLAIN: usize = 1;
const TROUBLED: usize = 16;
const ALL: usize = 20_000;

/// The groups, and the group of each flow.
pub(super) fn group(assembler: &Assembler) -> (Vec<Group>, Vec<u32>) {
    let mut by_signature: HashMap<u64, u32> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of = Vec::with_capacity(assembler.store.flows());
    let flows = assembler.store.flows() as u32;
    for flow in 0..flows {
        if flow % TOGETHER == 0 {
            assembler.store.warm(flow..flows.min(flow + TOGETHER));
        }
        let (signature, plain) = assembler.signature(flow);
        let group = *by_signature.entry(signature).or_insert_with(|| {
            groups.push(Group { count: 0, first: flow + 1, plain, examples: Vec::new() });
            groups.len() as u32 - 1
        });
        groups[group as usize].count += 1;
        group_of.push(group);
    }
    (groups, group_of)
}

/// The flows (from 0) to look at closely.
pub(super) fn examples(groups: &[Group], group_of: &[u32]) -> Vec<u32> {
    if group_of.len() <= FEW {
        return (0..group_of.len() as u32).collect();
    }
    let most = (ALL / groups.len().max(1)).max(1);
    let mut taken = vec![0usize; groups.len()];
    let mut examples = Vec::new();
    for (flow, group) in (0..).zip(group_of) {
        let each = if groups[*group as usize].plain { PLAIN } else { TROUBLED };
        let taken = &mut taken[*group as usize];
        if *taken < each.min(most) {
            *taken += 1;
            examples.push(flow);
        }
    }
    examples
}
