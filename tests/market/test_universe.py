import pytest

from app.market.universe import ExchangeInfo, SymbolInfo, universe


def listed(*symbols):
    return ExchangeInfo(0, tuple(symbols))


def pair(base, **changes):
    return SymbolInfo(
        **(
            {"symbol": base + "USDT", "status": "TRADING", "base_asset": base, "quote_asset": "USDT"}
            | changes
        )
    )


def test_what_is_left_out_has_its_reason():
    info = listed(
        pair("BTC"),
        pair("FTT", status="BREAK"),
        pair("USDC"),
        pair("EUR"),
        pair("ABC", is_spot_trading_allowed=False),
        pair("ETH", symbol="ETHBTC", quote_asset="BTC"),
    )

    chosen = universe(info)

    assert chosen.symbols == ("BTCUSDT", "USDCUSDT", "EURUSDT")
    assert chosen.skipped == {
        "FTTUSDT": "status BREAK",
        "ABCUSDT": "not on the spot market",
    }


def test_the_greatest_volumes_stay_when_there_are_too_many():
    volumes = {"AUSDT": 1.0, "BUSDT": 3.0, "CUSDT": 2.0}

    chosen = universe(listed(pair("A"), pair("B"), pair("C")), volumes, symbols_max=2)

    assert chosen.symbols == ("BUSDT", "CUSDT")
    assert chosen.skipped == {"AUSDT": "beyond the 2 greatest"}


def test_a_minimum_volume_leaves_out_the_quiet_and_the_unknown():
    chosen = universe(
        listed(pair("A"), pair("B"), pair("C")), {"AUSDT": 1e6, "BUSDT": 5e5}, min_quote_volume=6e5
    )

    assert chosen.symbols == ("AUSDT",)
    assert chosen.skipped["BUSDT"] == "24 h volume 500,000 USDT is below 600,000"
    assert "CUSDT" in chosen.skipped


def test_a_minimum_needs_volumes():
    with pytest.raises(ValueError, match="needs the volumes"):
        universe(listed(pair("A")), min_quote_volume=1)


def test_a_token_named_like_a_coin_is_kept():
    assert universe(listed(pair("币安人生"), pair("SHIB"), pair("USUAL"))).symbols == (
        "币安人生USDT",
        "SHIBUSDT",
        "USUALUSDT",
    )


async def test_the_simulated_exchange_lists_every_reason(client):
    chosen = universe(await client.exchange_info(), await client.quote_volumes())

    assert chosen.symbols[:2] == ("BTCUSDT", "ETHUSDT")
    assert len(chosen.symbols) == 31
    assert chosen.skipped == {
        "FTTUSDT": "status BREAK",
        "LUNAUSDT": "status HALT",
        "MTLUSDT": "status CANCEL_ONLY",
    }
