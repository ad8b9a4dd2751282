"""What a person does in MLflow's page: open a view, tick runs, compare them.

It is a program of megabytes that changes with every release of MLflow: what is known
of its inside stands here and nowhere else.
"""

AXES = "[...document.querySelectorAll('.parcoords text')].map((one) => one.textContent)"
"""Names and numbers along the axes of parallel coordinates."""

MAIN = "document.querySelector('main')"
"""Everything but the menu at the left."""

_SEES = "document.body.innerText.includes({!r})"
_ROW = "[...document.querySelectorAll('.ag-row')].find((one) => \
one.querySelector('input[type=checkbox]') && one.innerText.includes({!r}))"
_COMPARE = "document.querySelector('[data-testid=runs-compare-button]')"
_ONLY_DIFFERENCES = (
    """document.querySelector('[aria-label="Parameters - Show diff only"]')"""
)


async def open_view(browser, url):
    """Open an address; one that differs after its `#` alone would load nothing."""
    await browser.call("Page.navigate", url="about:blank")
    await browser.call("Page.navigate", url=url)


async def see(browser, *texts):
    """Wait until the page shows all of some texts."""
    for text in texts:
        for is_last in (False, False, True):
            try:
                await browser.wait(_SEES.format(text))
                break
            except AssertionError:
                if is_last:
                    raise


async def compare(browser, *names):
    """Tick runs of the list by their names and press *Compare*."""
    for name in names:
        box = f"{_ROW.format(name)}.querySelector('input')"
        await browser.click(box)
        await browser.wait(f"{box}.checked")
    for is_last in (False, True):
        await browser.click(_COMPARE)
        try:
            await see(browser, f"Comparing {len(names)} Runs")
            break
        except AssertionError:
            # A page that moves while the mouse is pressed loses the click.
            if is_last or not await browser.run(f"Boolean({_COMPARE})"):
                raise


async def show_differences(browser):
    """Leave only what differs in the compare page's table of parameters."""
    await browser.click(_ONLY_DIFFERENCES)
