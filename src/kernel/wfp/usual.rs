//! What nearly everything is that comes to a callout, and what is done about it
//! at once: judged in registers, family by family, before anything asks for the
//! processor, and without a call for which registers would be saved.

use core::convert::Infallible;
use core::marker::PhantomData;

use super::callout::Action;
use super::incoming::{Incoming, Passed};
use crate::kernel::irql::MaxDispatch;
use crate::logic::callouts::{self, Callout, Pair};

/// The kind of indication that nearly everything is, and what is done about it.
pub trait Usual: 'static {
    /// What all classifies share.
    type Shared: Sync + 'static;

    /// By what it is judged.
    type Terms: Copy;

    /// What of it is looked at.
    type Shown: Copy;

    /// What is left to do about one that is blocked.
    type Blocked: Copy;

    /// The callouts to which it comes, of either family and at one layer; `None`
    /// where nothing is usual.
    const CALLOUTS: Option<Pair>;

    /// By what it is judged, where nobody wants more of it than the verdict; no
    /// more is known than the context of the flow.
    fn terms(shared: &Self::Shared, flow_context: u64) -> Option<Self::Terms>;

    /// Looks at an indication that anybody may still decide about; `None` where
    /// it is not of this kind.
    fn shown(incoming: &Incoming<'_>) -> Option<Self::Shown>;

    /// Judges it: `None` where more has to be looked at than the terms.
    fn blocked(terms: Self::Terms, at: &'static Callout, shown: &Self::Shown) -> Option<Self::Blocked>;

    /// Counts one that is blocked, if that is all that is left to do; if not,
    /// nothing has been done.
    fn counts(shared: &Self::Shared, blocked: &Self::Blocked, irql: &MaxDispatch) -> bool;

    /// Does all that is left to do about one that is blocked.
    fn block(shared: &Self::Shared, blocked: &Self::Blocked, irql: &MaxDispatch);

    /// The same with what is looked at only where the terms are not all.
    fn more(shown: Self::Shown, incoming: &Incoming<'_>) -> Self::Shown;

    /// Judges it by everything, and does all that is to do.
    fn decide(shared: &Self::Shared, at: &'static Callout, shown: &Self::Shown, irql: &MaxDispatch)
    -> Action;
}

/// Where nothing is usual.
pub struct Nothing<S>(PhantomData<S>);

impl<S: Sync + 'static> Usual for Nothing<S> {
    type Shared = S;
    type Terms = Infallible;
    type Shown = Infallible;
    type Blocked = Infallible;

    const CALLOUTS: Option<Pair> = None;

    fn terms(_: &S, _: u64) -> Option<Infallible> {
        None
    }

    fn shown(_: &Incoming<'_>) -> Option<Infallible> {
        None
    }

    fn blocked(terms: Infallible, _: &'static Callout, _: &Infallible) -> Option<Infallible> {
        match terms {}
    }

    fn counts(_: &S, blocked: &Infallible, _: &MaxDispatch) -> bool {
        match *blocked {}
    }

    fn block(_: &S, blocked: &Infallible, _: &MaxDispatch) {
        match *blocked {}
    }

    fn more(shown: Infallible, _: &Incoming<'_>) -> Infallible {
        shown
    }

    fn decide(_: &S, _: &'static Callout, shown: &Infallible, _: &MaxDispatch) -> Action {
        match *shown {}
    }
}

/// What is done about an indication of the usual kind; `None` where it is not.
///
/// # Safety
/// The caller is a classifyFn, and `passed` what the engine passed to it.
#[inline(always)]
pub(super) unsafe fn at_once<U: Usual>(shared: &U::Shared, passed: Passed<'_>) -> Option<Action> {
    let [v4, v6] = U::CALLOUTS?;
    let terms = U::terms(shared, passed.flow_context)?;
    // Each family by itself: where all of it is known, no table is read.
    match passed.fixed.layerId {
        // SAFETY: by this function's contract.
        layer_id if layer_id == v4.layer_id => unsafe { at_once_at::<U>(shared, terms, v4, passed) },
        // SAFETY: as above.
        layer_id if layer_id == v6.layer_id => unsafe { at_once_at::<U>(shared, terms, v6, passed) },
        _ => None,
    }
}

/// The same to this callout.
///
/// # Safety
/// That of [`at_once`]; the callout is the one that is asked.
#[inline(always)]
unsafe fn at_once_at<U: Usual>(
    shared: &U::Shared,
    terms: U::Terms,
    at: &'static Callout,
    passed: Passed<'_>,
) -> Option<Action> {
    let (layer, fields) = const { callouts::layer_of(U::CALLOUTS) }?;
    // SAFETY: by this function's contract.
    let incoming = unsafe { Incoming::new(at, layer, fields, passed) }?;
    let shown = U::shown(&incoming)?;
    let Some(blocked) = U::blocked(terms, at, &shown) else {
        // SAFETY: the caller is a classifyFn.
        return Some(unsafe { decide_aside::<U>(shared, at, U::more(shown, &incoming)) });
    };
    // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3).
    let counts = match unsafe { MaxDispatch::at_dispatch() } {
        Some(irql) => U::counts(shared, &blocked, &irql),
        None => false,
    };
    if !counts {
        // SAFETY: the caller is a classifyFn.
        unsafe { block_aside::<U>(shared, blocked) };
    }
    Some(Action::Block)
}

/// Does what is left to do about an indication that is blocked.
///
/// # Safety
/// The caller is a classifyFn.
#[cold]
#[inline(never)]
unsafe extern "C" fn block_aside<U: Usual>(shared: &U::Shared, blocked: U::Blocked) {
    // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3).
    let irql = unsafe { MaxDispatch::assume() };
    U::block(shared, &blocked, &irql);
}

/// Decides about an indication of the usual kind.
///
/// # Safety
/// The caller is a classifyFn.
#[cold]
#[inline(never)]
unsafe extern "C" fn decide_aside<U: Usual>(
    shared: &U::Shared,
    at: &'static Callout,
    shown: U::Shown,
) -> Action {
    // SAFETY: classifyFn runs at IRQL <= DISPATCH_LEVEL
    // (FWPS_CALLOUT_CLASSIFY_FN3).
    let irql = unsafe { MaxDispatch::assume() };
    U::decide(shared, at, &shown, &irql)
}
